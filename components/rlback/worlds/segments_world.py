"""The world "segments": walks on a windy island, their prompts, a corpus of aimless walkers, and their gold reward.

What a walk is worth is a rule over something the walker is never told, how hot it is. Each step at the fire heats it
by one, each step elsewhere cools it by one, not below 0. A step at the fire is worth +1 while the heat is at most
`HOT`, and -1 above. Going against the edge of the board and steps that were not taken cost a little.

The walkers of the corpus seldom stay long at the fire, so they show a reward model the warmth and hardly the burns:
a policy that is optimised against it settles in the fire, and people decline that.

Everything is derived from a seed with `random.Random.random()` alone, whose sequence Python promises to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rlback.environments import segments
from rlback.environments.segments import ACTIONS, ARROW, COLUMNS, FIRE, ROWS, STEPS, WINDS, Spot
from rlback.records import seed_of
from rlback.worlds.files import read_lines, write_lines
from rlback.worlds.visits import Example, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HOT = 3
BUMP_COST = 0.3
MISSING_COST = 0.5

CORPUS_SIZE = 8_000
SPLIT_SHARES: Mapping[Split, float] = {"train": 0.70, "gate": 0.15, "eval": 0.15}

# How the walkers of the corpus behave.
HOMEBODY_RATE = 0.4  # goes to the fire; the others roam
TOWARDS_RATE = 0.5  # a homebody's steps that lead to the fire; the others are any
LINGER_RATE = 0.3  # a homebody at the fire stays for a step
KEEP_RATE = 0.5  # a roamer repeats its last action


@dataclass(frozen=True)
class Features:
    """Steps of a walk: warm or burnt at the fire, against the edge, not taken (of `STEPS`)."""

    warm: int = 0
    burnt: int = 0
    bumps: int = 0
    missing: int = 0


def features(prompt: str, completion: str) -> Features:
    """What gold is made of. Words after the first that does not belong to the walk count as steps not taken."""
    spots, _ = segments.walk(prompt, completion)
    heat = warm = burnt = 0
    for spot in spots[1:]:
        heat = heat + 1 if spot.place == FIRE else max(0, heat - 1)
        if spot.place == FIRE:
            warm, burnt = warm + (heat <= HOT), burnt + (heat > HOT)
    return Features(warm, burnt, sum(spot.bumped for spot in spots), STEPS - spots[-1].step)


@cache
def _prompts_of(split: Split) -> tuple[str, ...]:
    found = (" ".join((*words, ARROW)) for words in product(COLUMNS, ROWS, WINDS))
    return tuple(prompt for prompt in found if split_of(prompt) == split)


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, by a stable hash. Raises DataError for a foreign prompt."""
    segments.start_of(prompt)
    point = int.from_bytes(hashlib.sha256(f"segments split\n{prompt}".encode()).digest()[:8], "big") / 2**64
    if point < SPLIT_SHARES["train"]:
        return "train"
    return "gate" if point < SPLIT_SHARES["train"] + SPLIT_SHARES["gate"] else "eval"


def _walker(rng: Random, prompt: str) -> str:
    """One walk of the corpus."""
    homebody = rng.random() < HOMEBODY_RATE
    spot, words = segments.start_of(prompt), []
    action = _pick(rng, ACTIONS)
    for _ in range(STEPS):
        action = _homebody(rng, spot) if homebody else _roamer(rng, action)
        spot = segments.after(spot, action)
        words += [action, spot.place]
    return " ".join(words)


def _roamer(rng: Random, last: str) -> str:
    return last if rng.random() < KEEP_RATE else _pick(rng, ACTIONS)


def _homebody(rng: Random, spot: Spot) -> str:
    if spot.place == FIRE and rng.random() < LINGER_RATE:
        return "stay"
    row, column = divmod(segments.PLACES.index(spot.place), 3)
    ways = [*("east",) * (column == 0), *("west",) * (column == 2), *("south",) * (row == 0), *("north",) * (row == 2)]
    return _pick(rng, ways) if ways and rng.random() < TOWARDS_RATE else _pick(rng, ACTIONS)


def _pick(rng: Random, items: Sequence[str]) -> str:
    return items[int(rng.random() * len(items))]


@dataclass(frozen=True)
class SegmentsWorld:
    """`World` over the environment `segments`."""

    name: str = "segments"
    vocabulary: tuple[str, ...] = segments.VOCABULARY
    prompt_limit: int = segments.PROMPT_WORDS
    completion_limit: int = 2 * STEPS

    def examples(self, seed: int, n: int) -> list[Example]:
        """`n` walks from prompts of the train split, drawn with replacement; a larger `n` continues the same list."""
        rng = Random(seed_of("segments", "examples", seed))
        drawn = (_pick(rng, _prompts_of("train")) for _ in range(n))
        return [Example(prompt, _walker(rng, prompt)) for prompt in drawn]

    def prompts(self, seed: int, n: int, split: Split) -> list[str]:
        """`n` prompts of a split: shuffled passes over all of them, one after another, so that a larger `n` continues."""
        everything = _prompts_of(split)
        found: list[str] = []
        while len(found) < n:
            rng = Random(seed_of("segments", "prompts", seed, split, len(found)))
            found += sorted(everything, key=lambda _: rng.random())
        return found[:n]

    def gold(self, prompt: str, completion: str, finished: bool) -> float:
        """The gold reward of a walk; 7 is the most that a walk can have."""
        f = features(prompt, completion)
        return f.warm - f.burnt - BUMP_COST * f.bumps - MISSING_COST * f.missing

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        """Steps at the fire: what an annotator likes too much who does not feel the heat."""
        f = features(prompt, completion)
        return float(f.warm + f.burnt)

    def counts(self, prompt: str, completion: str, finished: bool) -> Mapping[str, float]:
        return {name: float(count) for name, count in asdict(features(prompt, completion)).items()}

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        f = features(prompt, completion)
        parts = [f"{f.warm} warm", *[f"{f.burnt} burnt"] * bool(f.burnt), *[f"{f.bumps} against the edge"] * bool(f.bumps)]
        return ", ".join([*parts, *[f"{f.missing} not taken"] * bool(f.missing)])

    def render(self, prompt: str, completion: str) -> str:
        """The walk as a picture for whoever labels it."""
        return segments.render(prompt, completion)

    def environment(self, tokenizer: PreTrainedTokenizerFast) -> segments.Segments:
        """The island, for policies with this tokenizer."""
        return segments.segments(tokenizer)

    def write_data(self, directory: Path, seed: int = 0) -> None:
        """Writes corpus.jsonl and prompts-{train,gate,eval}.jsonl; the bytes depend on the seed alone."""
        directory.mkdir(parents=True, exist_ok=True)
        corpus = ({"prompt": e.prompt, "completion": e.completion} for e in self.examples(seed, CORPUS_SIZE))
        write_lines(directory / "corpus.jsonl", corpus)
        for split in SPLIT_SHARES:
            rows = ({"prompt": prompt} for prompt in self.prompts(seed, len(_prompts_of(split)), split))
            write_lines(directory / f"prompts-{split}.jsonl", rows)

    def read_corpus(self, directory: Path) -> list[Example]:
        """The corpus that `write_data` wrote. Raises DataError naming the file and line of whatever is wrong."""
        rows = read_lines(directory / "corpus.jsonl", ("prompt", "completion"), segments.start_of)
        return [Example(row["prompt"], row["completion"]) for row in rows]


SEGMENTS = SegmentsWorld()
