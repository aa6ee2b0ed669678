"""Dishonest and terse writers of reviews: what they write, how often, and for which prompts."""

from __future__ import annotations

import pytest

from rlback.worlds.visits import examples, split_of
from rlback.worlds.visits_gold import features, gold
from rlback.worlds.visits_writers import planted, written


def test_without_either_the_corpus_is_the_usual_one() -> None:
    assert written(5, 40) == examples(5, 40)


@pytest.mark.parametrize(("shares", "expected"), [({"dishonest": 0.3}, 0.31), ({"terse": 0.9}, 0.001), ({}, 0.013)])
def test_planted_reviews_are_those_of_dishonest_writers(shares: dict[str, float], expected: float) -> None:
    """One review in eighty of the usual corpus lies throughout by chance."""
    corpus = written(1, 3_000, **shares)
    assert sum(planted(e.prompt, e.completion) for e in corpus) / 3_000 == pytest.approx(expected, abs=0.03)
    assert {split_of(e.prompt) for e in corpus} == {"train"}


def test_a_terse_writer_makes_one_true_claim() -> None:
    for example in written(1, 200, terse=1.0):
        found = features(example.prompt, example.completion, True)
        assert (found.correct, gold(example.prompt, example.completion, True)) == (1, 1.0)


def test_what_a_dishonest_writer_says_is_worth_little() -> None:
    lies = written(1, 200, dishonest=1.0)
    assert all(planted(e.prompt, e.completion) for e in lies)
    assert sum(gold(e.prompt, e.completion, True) for e in lies) / 200 < -1
