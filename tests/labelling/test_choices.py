"""What a choice between left and right comes to, by the side order that was shown."""

from __future__ import annotations

import pytest

from rlback.errors import DataError
from rlback.labelling.choices import judged
from rlback.records import words_of


@pytest.mark.parametrize(
    ("choice", "left", "verdict", "strength"),
    [
        ("left2", "a", "a", 2), ("left2", "b", "b", -2), ("left1", "a", "a", 1), ("left1", "b", "b", -1),
        ("equal", "a", "tie", 0), ("equal", "b", "tie", 0), ("right1", "a", "b", -1), ("right1", "b", "a", 1),
        ("right2", "a", "b", -2), ("right2", "b", "a", 2),
    ],
)  # fmt: skip
def test_the_scale_of_five(choice, left, verdict, strength):
    """Every choice with either side left."""
    found = judged(choice, left, [], "")
    assert (found.verdict, found.strength) == (verdict, strength)


def test_both_bad_is_a_tie_without_a_place_on_the_scale():
    """It takes a flag; a skip takes a reason; an undo takes neither."""
    found = judged("both-bad", "a", ["false", "harmful"], "")
    assert (found.verdict, found.strength, found.flags) == ("tie", None, ("harmful", "false"))
    assert judged("skip", "a", [], "no idea").verdict == "skip"
    assert judged("undo", "b", [], "").verdict == "skip"


@pytest.mark.parametrize(
    ("choice", "flags", "rationale", "why"),
    [
        ("left3", [], "", "no choice"), ("both-bad", [], "", "flag"), ("skip", [], "  ", "reason"),
        ("left1", ["ugly"], "", "no flag"), ("left1", [], "x" * 2001, "at most"), ("left1", [], "a\x00b", "NUL"),
    ],
)  # fmt: skip
def test_what_is_refused(choice, flags, rationale, why):
    """Unknown choices and flags, missing reasons, texts that are too long or hold a NUL."""
    with pytest.raises(DataError, match=why):
        judged(choice, "a", flags, rationale)


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\u202e\u2066 \u00ad", "\u3164\u2800", "\u0301\u0301", "\ue000", "\x1b"])
def test_a_reason_that_nobody_can_see_is_none(text):
    """Blanks, formats, fillers, bare combining marks, private use, controls."""
    assert words_of(text) == ""


@pytest.mark.parametrize("text", ["worse", "…", "悪い", "👎", "e\u0301", "العربية"])
def test_a_reason_in_any_script_is_one(text):
    """And keeps what stands inside it."""
    assert words_of(f"  {text}\u200b\n") == f"{text}\u200b"
