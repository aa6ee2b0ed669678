"""Other writers for the world "visit notes -> review": corpora from which a base policy starts badly, or far away.

A dishonest writer says the opposite of the notes, throughout and with a fitting verdict on that opposite: a base policy
trained on some of it has a bad mode (scenario 1 of the protocol). A terse writer makes one true claim and stops: harmless,
and far from what gold asks for (scenario 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from random import Random

from rlback.records import seed_of
from rlback.worlds.visits import (
    ADJECTIVES,
    ARROW,
    CLAIMS,
    Example,
    examples,
    parse_prompt,
    prompts,
    split_of,
    split_size,
)
from rlback.worlds.visits_gold import features

_AT_ONCE = 2_000


def written(seed: int, n: int, *, dishonest: float = 0.0, terse: float = 0.0) -> list[Example]:
    """`n` reviews for prompts of the train split; of these shares by dishonest and terse writers, the rest as ever.

    Without either they are `visits.examples(seed, n)`.
    """
    usual = examples(seed, n)
    if not dishonest and not terse:
        return usual
    rng, lies, words = Random(seed_of("visits writers", seed)), _lies(seed), _terse(seed)
    found = []
    for example in usual:
        at = rng.random()
        found.append(next(lies) if at < dishonest else next(words) if at < dishonest + terse else example)
    return found


@lru_cache(maxsize=65_536)
def planted(prompt: str, completion: str) -> bool:
    """Whether a review is one of a dishonest writer's: its verdict contradicts the notes, and no claim is right."""
    found = features(prompt, completion, finished=True)
    return found.verdict_bad and found.wrong > 0 and found.correct == 0


def _lies(seed: int) -> Iterator[Example]:
    """Honest reviews of the opposite visit."""
    turn = 0
    while True:
        for example in examples(seed_of("visits lies", seed, turn), _AT_ONCE):
            said = features(example.prompt, example.completion, finished=True)
            other = _opposite(example.prompt)
            honest = said.verdict_ok and said.correct and not (said.wrong or said.invented or said.repeat)
            if honest and split_of(other) == "train":
                yield Example(other, example.completion)
        turn += 1


def _terse(seed: int) -> Iterator[Example]:
    rng = Random(seed_of("visits terse", seed))
    everywhere = prompts(seed, split_size("train"), "train")
    while True:
        prompt = everywhere[int(rng.random() * len(everywhere))]
        notes = list(parse_prompt(prompt).notes.items())
        note = notes[int(rng.random() * len(notes))]
        adjective = ADJECTIVES[note][int(rng.random() * len(ADJECTIVES[note]))]
        yield Example(prompt, CLAIMS[0].format(aspect=note[0], words=adjective))


def _opposite(prompt: str) -> str:
    visit = parse_prompt(prompt)
    turned = (f"{aspect}:{'bad' if polarity == 'good' else 'good'}" for aspect, polarity in visit.notes.items())
    return " ".join([visit.place, *turned, ARROW])
