from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlback.environments.arithmetic import BOUND, MAX_WORDS, NoValue, evaluate, spell


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 2 + 3 0", 42),
        ("2 + 3 * 4", 14),
        ("( 2 + 3 ) * 4", 20),
        ("9 - 4 - 3", 2),
        ("- 5 + 2", -3),
        ("2 * - 3", -6),
        ("- ( 1 - 9 )", 8),
        ("- - 7", 7),
        ("0 0 7", 7),
        ("9 9 9 9 9 9 * 9 9 9 9 9 9", 999998000001),
    ],
)
def test_values(text: str, value: int):
    """Products before sums, left to right, signs and brackets; values worked out by hand."""
    assert evaluate(text.split()) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "1 +", "* 2", "( 1", "1 )", "( )", "1 ( 2 )", "1 2 3 4 5 6 7", "x", "1 / 2", "2 * * 3", "1 . 5", "12",
        "__import__", "( " * 9 + "1" + " )" * 9, "- " * 10 + "1",
        "9 9 9 9 9 9 * 9 9 9 9 9 9 * 9", "1 0 0 0 0 0 * 1 0 0 0 0 0 * 1 0 0 - 1", "²", "٣",
    ],
)  # fmt: skip
def test_words_without_a_value(text: str):
    """Broken sums, other operators and digits, long numbers, deep nesting and values that grow too large have none."""
    with pytest.raises(NoValue):
        evaluate(text.split())


def test_length_is_capped():
    """An expression of as many words as allowed has its value, one of more has none."""
    longest = ["1", *["+", "1"] * (MAX_WORDS // 2 - 1)]
    assert evaluate(longest) == MAX_WORDS // 2
    assert evaluate(["-", *longest]) == MAX_WORDS // 2 - 2
    with pytest.raises(NoValue, match="words"):
        evaluate([*longest, "+", "1"])


@given(st.lists(st.sampled_from([*"0123456789+-*()", "x", ""]), max_size=20))
def test_any_words_have_a_bounded_value_or_none(words: list[str]):
    """Whatever a policy writes, the evaluator returns a number below the bound or says that there is none."""
    with suppress(NoValue):
        assert abs(evaluate(words)) < BOUND


@given(st.integers(-(10**6) + 1, 10**6 - 1))
def test_spelling_reads_back(value: int):
    """The digits of a number evaluate to it."""
    assert evaluate(spell(value)) == value
