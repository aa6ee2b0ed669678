"""The grammar of the world "visit notes -> review": prompts, careless and careful reviews, the data files.

A prompt names a place and three notes, each one token (`food:good`); a review is a handful of short template
sentences. A person can judge two reviews at a glance, and `visits_gold` judges them exactly.

Everything is derived from a seed with `random.Random.random()` alone, the one draw whose sequence Python
promises to keep, so the data come out byte for byte the same on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations, product
from pathlib import Path
from random import Random
from typing import Literal, TypeVar

from rlback.errors import DataError
from rlback.records import seed_of
from rlback.worlds.files import read_lines, write_lines

Split = Literal["train", "gate", "eval"]
T = TypeVar("T")

PLACES = ("luigis", "lotus", "harbour", "saffron", "orchard", "mirabel", "juniper", "lantern")
POLARITIES = ("good", "bad")
ADJECTIVES: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("food", "good"): ("tasty", "delicious", "fresh"),
    ("food", "bad"): ("bland", "greasy", "stale"),
    ("service", "good"): ("friendly", "helpful", "attentive"),
    ("service", "bad"): ("careless", "rude", "clumsy"),
    ("price", "good"): ("fair", "modest", "reasonable"),
    ("price", "bad"): ("steep", "excessive", "outrageous"),
    ("room", "good"): ("cosy", "bright", "airy"),
    ("room", "bad"): ("cramped", "gloomy", "shabby"),
    ("music", "good"): ("lively", "soothing", "charming"),
    ("music", "bad"): ("loud", "tinny", "grating"),
    ("wait", "good"): ("short", "brief", "painless"),
    ("wait", "bad"): ("long", "endless", "tedious"),
}
ASPECTS = ("food", "service", "price", "room", "music", "wait")
INTENSIFIERS = ("really", "very", "truly", "so", "simply")
HYPE = ("wow !", "amazing !", "what a joy !", "fantastic !")
FILLERS = ("it rained all day .", "we took the bus .", "i wore my blue coat .", "the town was busy .")
VERDICTS: Mapping[str, tuple[str, str]] = {
    "good": ("i would go again .", "do give it a try ."),
    "bad": ("i would not go again .", "give it a miss ."),
}
# {place} and {aspect} are filled in; {words} is an adjective, or an intensifier and an adjective.
OPENERS = (
    "we went to {place} last night .",
    "we went to {place} on sunday .",
    "we went to {place} for lunch .",
    "we went to {place} at noon .",
    "i visited {place} with friends .",
    "i visited {place} with family .",
    "i visited {place} with my sister .",
    "i visited {place} with two colleagues .",
)
CLAIMS = ("the {aspect} was {words} .", "i found the {aspect} {words} .")
ARROW = "=>"
PROMPT_WORDS = 5  # a place, three notes and the arrow
COMPLETION_LIMIT = 48  # words; the end token comes after them

# How the writers of the corpus behave.
OPENER_RATE = 0.45
HYPE_FIRST_RATE = 0.15
CLAIM_COUNT_RATES = ((1, 0.3), (2, 0.4), (3, 0.3))
UNNOTED_RATE = 0.12
TRUE_RATE = 0.75
PLAIN_CLAIM_RATE = 0.7  # "the A was ..." rather than "i found the A ..."
INTENSIFIER_RATE = 0.25
HYPE_AFTER_CLAIM_RATE = 0.12
FILLER_RATE = 0.3
VERDICT_RATE = 0.5
FITTING_VERDICT_RATE = 0.75

CORPUS_SIZE = 20_000
SPLIT_SHARES: Mapping[Split, float] = {"train": 0.70, "gate": 0.15, "eval": 0.15}


def _every_word() -> tuple[str, ...]:
    notes = (f"{aspect}:{polarity}" for aspect, polarity in product(ASPECTS, POLARITIES))
    sentences = (*OPENERS, *CLAIMS, *HYPE, *FILLERS, *VERDICTS["good"], *VERDICTS["bad"])
    template_words = (word for sentence in sentences for word in sentence.split() if word[0] != "{")
    adjectives = (word for words in ADJECTIVES.values() for word in words)
    return tuple(
        dict.fromkeys((ARROW, *PLACES, *notes, *ASPECTS, *INTENSIFIERS, *adjectives, *template_words))
    )


#: Every word token of prompts and completions in the fixed order of token ids, without special tokens.
VOCABULARY: tuple[str, ...] = _every_word()


@dataclass(frozen=True)
class Example:
    """A prompt and a review written for it, both as words separated by one space."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Visit:
    """What a prompt says: the place, and the polarity of each noted aspect in the order noted."""

    place: str
    notes: Mapping[str, str]

    @property
    def overall(self) -> str:
        """The polarity of most of the three notes."""
        return "good" if list(self.notes.values()).count("good") >= 2 else "bad"


@lru_cache(maxsize=16_384)
def parse_prompt(prompt: str) -> Visit:
    """The visit that a prompt describes. Raises DataError for anything that is not a prompt of this world."""
    words = prompt.split(" ")
    notes = dict(word.split(":", 1) for word in words[1:-1] if ":" in word)
    known = all((aspect, polarity) in ADJECTIVES for aspect, polarity in notes.items())
    if len(words) != PROMPT_WORDS or words[0] not in PLACES or words[-1] != ARROW or len(notes) != 3 or not known:
        raise DataError(
            f"{prompt!r} is not a prompt of the visits world",
            remedy="write a place and three notes like `luigis service:bad price:good music:good =>`",
        )
    return Visit(words[0], notes)


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, by a stable hash of what it says.

    The order of the notes does not enter: two prompts that say the same thing never fall into two splits.
    Raises DataError for anything that is not a prompt.
    """
    visit = parse_prompt(prompt)
    notes = sorted(f"{aspect}:{polarity}" for aspect, polarity in visit.notes.items())
    said = " ".join([visit.place, *notes])
    point = int.from_bytes(hashlib.sha256(f"visits split\n{said}".encode()).digest()[:8], "big") / 2**64
    if point < SPLIT_SHARES["train"]:
        return "train"
    return "gate" if point < SPLIT_SHARES["train"] + SPLIT_SHARES["gate"] else "eval"


@cache
def _prompts_of(split: Split) -> tuple[str, ...]:
    found = (
        " ".join([place, *(f"{a}:{p}" for a, p in zip(aspects, polarities, strict=True)), ARROW])
        for place in PLACES
        for aspects in permutations(ASPECTS, 3)
        for polarities in product(POLARITIES, repeat=3)
    )
    return tuple(prompt for prompt in found if split_of(prompt) == split)


def split_size(split: Split) -> int:
    """The number of different prompts in a split; the three add up to 7,680."""
    return len(_prompts_of(split))


def prompts(seed: int, n: int, split: Split) -> list[str]:
    """`n` prompts of a split in an order drawn from the seed; a larger `n` continues the same list.

    No prompt comes twice before every prompt of the split has come once; what is asked for beyond that is
    drawn with replacement.
    """
    rng = _generator("prompts", seed, split)
    everything = _prompts_of(split)
    drawn = _shuffled(rng, everything)[:n]
    drawn += [_pick(rng, everything) for _ in range(n - len(drawn))]
    return drawn


def examples(seed: int, n: int) -> list[Example]:
    """`n` reviews by careless and careful writers for prompts of the train split, drawn with replacement.

    A larger `n` continues the same list. No review is longer than `COMPLETION_LIMIT` words.
    """
    rng = _generator("examples", seed)
    return [_example(rng) for _ in range(n)]


def _example(rng: Random) -> Example:
    prompt = _pick(rng, _prompts_of("train"))
    visit = parse_prompt(prompt)
    while True:
        completion = _review(rng, visit)
        # The templates allow 56 words, but hardly one review in 100,000 is over the limit.
        if len(completion.split()) <= COMPLETION_LIMIT:
            return Example(prompt, completion)


def _review(rng: Random, visit: Visit) -> str:
    body = _claims(rng, visit)
    if rng.random() < FILLER_RATE:
        body.insert(_index(rng, len(body) + 1), _pick(rng, FILLERS))
    if rng.random() < HYPE_FIRST_RATE:
        body.insert(0, _pick(rng, HYPE))
    if rng.random() < OPENER_RATE:
        body.insert(0, _pick(rng, OPENERS).format(place=visit.place))
    if rng.random() < VERDICT_RATE:
        fitting = rng.random() < FITTING_VERDICT_RATE
        body.append(_pick(rng, VERDICTS[visit.overall if fitting else _opposite(visit.overall)]))
    return " ".join(body)


def _claims(rng: Random, visit: Visit) -> list[str]:
    """One to three claims on different aspects, each followed by its hype sentence if it has one."""
    noted = _shuffled(rng, tuple(visit.notes))
    unnoted = _shuffled(rng, tuple(aspect for aspect in ASPECTS if aspect not in visit.notes))
    claims = []
    for _ in range(_claim_count(rng)):
        if rng.random() < UNNOTED_RATE:
            aspect, polarity = unnoted.pop(), _pick(rng, POLARITIES)
        else:
            aspect = noted.pop()
            true = rng.random() < TRUE_RATE
            polarity = visit.notes[aspect] if true else _opposite(visit.notes[aspect])
        template = CLAIMS[0] if rng.random() < PLAIN_CLAIM_RATE else CLAIMS[1]
        words = _pick(rng, ADJECTIVES[aspect, polarity])
        if rng.random() < INTENSIFIER_RATE:
            words = f"{_pick(rng, INTENSIFIERS)} {words}"
        claim = template.format(aspect=aspect, words=words)
        if rng.random() < HYPE_AFTER_CLAIM_RATE:
            claim = f"{claim} {_pick(rng, HYPE)}"
        claims.append(claim)
    return claims


def _claim_count(rng: Random) -> int:
    point = rng.random()
    for count, rate in CLAIM_COUNT_RATES:
        point -= rate
        if point < 0:
            return count
    return CLAIM_COUNT_RATES[-1][0]


def _opposite(polarity: str) -> str:
    return "bad" if polarity == "good" else "good"


def _generator(*purpose: object) -> Random:
    return Random(seed_of("visits", *purpose))


def _index(rng: Random, n: int) -> int:
    return int(rng.random() * n)


def _pick(rng: Random, items: Sequence[T]) -> T:
    return items[_index(rng, len(items))]


def _shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    out = list(items)
    for last in range(len(out) - 1, 0, -1):
        other = _index(rng, last + 1)
        out[last], out[other] = out[other], out[last]
    return out


def write_data(directory: Path, seed: int = 0) -> None:
    """Write corpus.jsonl (20,000 examples) and prompts-{train,gate,eval}.jsonl (each split whole, shuffled).

    The bytes depend on the seed alone. The directory is made if it does not exist; files there are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    corpus = ({"prompt": e.prompt, "completion": e.completion} for e in examples(seed, CORPUS_SIZE))
    write_lines(directory / "corpus.jsonl", corpus)
    for split in SPLIT_SHARES:
        rows = ({"prompt": prompt} for prompt in prompts(seed, split_size(split), split))
        write_lines(directory / f"prompts-{split}.jsonl", rows)


def read_examples(path: Path) -> list[Example]:
    """The examples of a corpus file. Raises DataError naming the file and line of whatever is wrong."""
    rows = read_lines(path, ("prompt", "completion"), parse_prompt)
    return [Example(row["prompt"], row["completion"]) for row in rows]


def read_prompts(path: Path) -> list[str]:
    """The prompts of a prompt file. Raises DataError naming the file and line of whatever is wrong."""
    return [row["prompt"] for row in read_lines(path, ("prompt",), parse_prompt)]
