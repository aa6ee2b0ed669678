"""Splits by group and the length baseline."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlback.data.split import length_baseline, split_by_group
from rlback.errors import DataError
from rlback.records import PreferencePair


def pair(group: str, chosen: str = "", rejected: str = "") -> PreferencePair:
    return PreferencePair("p", chosen or f"{group} good", rejected or f"{group} bad", group=group)


PAIRS = [pair(group) for group in "aabbbcddddee"]


@given(count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_whole_groups_in_any_order(count: int, seed: int) -> None:
    """No group is on both sides, no pair is lost, and shuffled pairs give the same groups."""
    split = split_by_group(PAIRS, count, seed)
    train, held = split
    assert {p.group for p in held} == set(split.held_groups)
    assert len(split.held_groups) == count
    assert not {p.group for p in train} & {p.group for p in held}
    assert sorted(p.group for p in train + held) == sorted(p.group for p in PAIRS)
    shuffled = random.Random(seed).sample(PAIRS, len(PAIRS))
    assert split_by_group(shuffled, count, seed).held_groups == split.held_groups


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.2, 1), (0.5, 2), (0.6, 3), (0.99, 4)])
def test_a_share_of_the_groups(share: float, count: int) -> None:
    """Of five groups, rounded, and at least one on each side; the draw is that of as many."""
    assert split_by_group(PAIRS, share, 3).held_groups == split_by_group(PAIRS, count, 3).held_groups


def test_the_seed_matters() -> None:
    """Among 50 seeds every group is held out at some time."""
    drawn = {split_by_group(PAIRS, 1, seed).held_groups for seed in range(50)}
    assert drawn == {("a",), ("b",), ("c",), ("d",), ("e",)}


def test_the_draw_is_the_same_in_every_process() -> None:
    """Draws recorded once hold whatever order this process keeps its sets in."""
    drawn = ["".join(split_by_group(PAIRS, 2, seed).held_groups) for seed in range(6)]
    assert drawn == ["cd", "cd", "cd", "ae", "be", "de"]


def test_named_groups() -> None:
    """Groups can be named; their pairs keep their order."""
    train, held = split_by_group(PAIRS, ["d", "a"], 0)
    assert [p.group for p in held] == list("aadddd")
    assert [p.group for p in train] == list("bbbcee")


def test_texts_on_both_sides_are_counted() -> None:
    """One held-out text that two training pairs also use, in either role, leaks."""
    pairs = [
        pair("a", "same", "1"),
        pair("a", "2", "same"),
        pair("a", "3", "4"),
        pair("b", "5", "same"),
        pair("b"),
    ]
    split = split_by_group(pairs, ["b"], 0)
    assert (split.leaked_train, split.leaked_held) == (2, 1)
    assert (len(split.train), len(split.held)) == (3, 2)


@pytest.mark.parametrize(
    ("pairs", "held_out", "words"),
    [
        (PAIRS, 5, "cannot hold out 5 of 5 groups"),
        (PAIRS, 0, "cannot hold out 0 of 5 groups"),
        (PAIRS, list("abcde"), "cannot hold out 5 of 5 groups"),
        (PAIRS, [], "cannot hold out 0 of 5 groups"),
        (PAIRS, ["z"], "no group 'z'"),
        ([pair("a")], 1, "cannot hold out 1 of 1 groups"),
        ([pair("a")], 0.5, "cannot hold out 1 of 1 groups"),
        ([*PAIRS, pair("")], 1, "1 of 13 pairs have no group"),
        ([], 1, "cannot hold out 1 of 0 groups"),
    ],
)
def test_splits_that_cannot_be(pairs: list[PreferencePair], held_out: int | list[str], words: str) -> None:
    """Too few, unknown or missing groups are refused with a way out."""
    with pytest.raises(DataError, match=words) as caught:
        split_by_group(pairs, held_out, 0)
    assert caught.value.remedy


def test_length_baseline_by_hand() -> None:
    """Longer, longer, shorter, equal: 2 1/2 of 4. Wilson for 5 of 8 is 0.306 to 0.863; for n = 4 wider."""
    pairs = [pair("g", "xxx", "y"), pair("g", "xx", "y"), pair("g", "x", "yy"), pair("g", "x", "y")]
    found = length_baseline(pairs)
    assert (found["value"], found["n"], found["ties"]) == (0.625, 4, 1)
    assert 0 < found["low"] < 0.306
    assert 0.863 < found["high"] < 1
    eight = length_baseline(pairs * 2)
    assert (eight["low"], eight["high"]) == (pytest.approx(0.306, abs=5e-4), pytest.approx(0.863, abs=5e-4))


def test_length_baseline_at_the_ends() -> None:
    """All longer: the interval ends at 1 and, with n = 10, starts at 10 / (10 + 1.96 ** 2) = 0.7225."""
    found = length_baseline([pair("g", "xx", "y")] * 10)
    assert (found["value"], found["high"]) == (1.0, pytest.approx(1.0))
    assert found["low"] == pytest.approx(0.7225, abs=1e-4)
    with pytest.raises(DataError, match="no pairs"):
        length_baseline([])
