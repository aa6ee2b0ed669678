"""Which samples an approver is shown."""

from __future__ import annotations

import pytest

from rlback.campaign.gate_samples import choose, why_shown
from rlback.labelling.batches import Stored
from rlback.records import Comparison, Completion


def items(n: int) -> list[Stored]:
    """Comparisons whose candidate says its number."""
    return [
        Stored(f"c.{i}", "c", i, Comparison(f"p{i}", Completion(f"new {i}", (), True), Completion("old", (), False), "cross"))
        for i in range(n)
    ]


def names(found, why):
    return [sample["candidate"].removeprefix("new ") for sample in found if sample["why"] == why]


def test_some_are_drawn_some_the_worst_and_some_flagged():
    """Ten: the three lowest margins, the two with most flags, five drawn from the rest; the first three one of each."""
    margins = {f"c.{i}": (-2.0 if i in (3, 17, 29) else 1.0) - i / 100 for i in range(40)}
    flags = {"c.5": ["false"], "c.9": ["harmful", "false", "false"], "c.11": ["private", "false"], "c.3": ["false"] * 9}
    found = choose(items(40), margins, flags, 1)
    assert names(found, "worst") == ["29", "17", "3"]
    assert names(found, "flagged") == ["9", "11"]
    drawn = names(found, "random")
    assert len(drawn) == 5
    assert not {"29", "17", "3", "9", "11"} & set(drawn)
    assert [sample["why"] for sample in found[:3]] == ["random", "worst", "flagged"]
    assert why_shown(found[2]) == "flagged by annotators: false, harmful"
    assert found == choose(items(40), margins, flags, 1)
    assert names(choose(items(40), margins, flags, 2), "random") != drawn


@pytest.mark.parametrize("n", [0, 1, 4, 10, 11])
def test_small_batches_and_no_reward_model_are_all_drawn(n):
    """Nothing twice, at most ten."""
    found = choose(items(n), {}, {}, 7)
    assert len(found) == min(n, 10)
    assert len({sample["prompt"] for sample in found}) == len(found)
    assert {sample["why"] for sample in found} <= {"random"}


def test_what_the_reward_model_likes_is_not_called_worst():
    """All margins are positive."""
    assert names(choose(items(12), {f"c.{i}": 0.5 for i in range(12)}, {}, 7), "worst") == []


def test_older_evidence_does_not_say_why():
    """It holds the first ten of its batch."""
    assert why_shown({"prompt": "p"}) == ""
