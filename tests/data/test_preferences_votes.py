"""Votes on comparisons: weights and the agreement of annotators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlback.data.votes import Votes, annotator_agreement, apply_votes, read_votes
from rlback.errors import DataError
from rlback.records import PreferencePair

ROW = {"id": "i", "a1": "x", "a2": "y", "votes": {"a1": 3, "a2": 1, "equal": 1}, "gold": "a1"}


def votes(a1: int, a2: int, equal: int = 0) -> Votes:
    return Votes(a1, a2, equal, "x", "y")


def test_reading(tmp_path: Path) -> None:
    """Counts and texts come by id."""
    path = tmp_path / "f"
    path.write_text(json.dumps(ROW))
    assert read_votes(path) == {"i": Votes(3, 1, 1, "x", "y")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "i"}, "the id 'i' is there twice"),
        ({"id": "j", "votes": {"a1": -1, "a2": 0}}, "votes.a1 must be a whole number"),
        ({"id": "j", "votes": {"a1": 1}}, "votes.a2 must be a whole number"),
        ({"id": "j", "votes": {"a1": 0, "a2": 0, "equal": 0}}, "there is no vote"),
        ({"id": "j", "votes": "3"}, "votes must be an object"),
        ({"id": "j", "a1": 3}, "a1 must be text"),
    ],
)
def test_bad_votes_name_the_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """Counts that cannot be and ids that repeat are refused where they stand."""
    path = tmp_path / "f"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **changes}))
    with pytest.raises(DataError, match=f"line 2: {words}"):
        read_votes(path)


def test_weight_is_the_share_for_the_chosen_side() -> None:
    """3 of 4 decisive votes for x give 0.75 if x is chosen, 0.25 if y is; equal votes are left out."""
    for chosen, rejected, weight in (("x", "y", 0.75), ("y", "x", 0.25)):
        pair = PreferencePair("p", chosen, rejected, group="g", id="i")
        (weighted,) = apply_votes([pair], {"i": votes(3, 1, 9)})
        assert weighted == PreferencePair("p", chosen, rejected, group="g", weight=weight, id="i")


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (PreferencePair("p", "x", "y", id="other"), "no votes for the pair with id 'other'"),
        (PreferencePair("p", "x", "z", id="i"), "on other texts"),
        (PreferencePair("p", "y", "x", id="i"), "no vote for its chosen side"),
    ],
)
def test_votes_that_do_not_fit(pair: PreferencePair, words: str) -> None:
    """A weight is never made up, and never 0."""
    with pytest.raises(DataError, match=words):
        apply_votes([pair], {"i": votes(2, 0)})


def test_agreement_worked_by_hand() -> None:
    """3:1 gives 1/2, 3/4 and 3/4; 2:2 gives 1/3, 0 and 1/2.

    3:1: of 6 couples 3 agree; each of the three sees 2:1 for their side, the fourth 3:0 against.
    2:2: of 6 couples 2 agree; each voter sees 1:2 against.
    """
    one = annotator_agreement([votes(3, 1)])
    assert (one.pairwise, one.against_rest, one.majority_share) == (0.5, 0.75, 0.75)
    even = annotator_agreement([votes(2, 2, 1)])
    assert (even.pairwise, even.against_rest, even.majority_share) == (pytest.approx(1 / 3), 0, 0.5)
    both = annotator_agreement([votes(3, 1), votes(2, 2), votes(1, 0), votes(0, 0, 5)])
    assert (both.comparisons, both.votes, both.against_rest) == (2, 8, 0.375)


def test_an_even_rest_counts_one_half() -> None:
    """2:1 with three voters: each of the two sees 1:1, the third sees 2:0 against, so (1/2 + 1/2 + 0) / 3."""
    assert annotator_agreement([votes(2, 1)]).against_rest == pytest.approx(1 / 3)


def test_agreement_needs_two_decisive_votes() -> None:
    """With single votes only there is a reason, not a number."""
    with pytest.raises(DataError, match="two decisive votes"):
        annotator_agreement([votes(1, 0, 4)])
