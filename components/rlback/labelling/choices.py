"""What an annotator may say about two completions, and the label it comes to. Pure.

An annotator chooses between left and right and never knows which is `a`; the side order that was shown makes the
choice a verdict. Strength is kept beside it: -2 (b far better) to 2 (a far better) is an ordinal scale, from which
agreement is measured, while fits use the verdict alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlback.errors import DataError
from rlback.records import Verdict, words_of

#: choice -> (key, steps towards left)
SCALE: dict[str, tuple[str, int]] = {
    "left2": ("1", 2),
    "left1": ("2", 1),
    "equal": ("3", 0),
    "right1": ("4", -1),
    "right2": ("5", -2),
}
CHOICES = (*SCALE, "both-bad", "skip", "undo")
FLAGS = ("harmful", "false", "off-topic", "cut-off", "private", "not-understood")
RATIONALE_CHARS = 2_000


@dataclass(frozen=True)
class Judgement:
    """A choice with what goes with it, made into a verdict on sides a and b."""

    choice: str
    verdict: Verdict
    strength: int | None
    flags: tuple[str, ...]
    rationale: str


def judged(choice: str, left: str, flags: Sequence[str], rationale: str) -> Judgement:
    """The judgement behind a choice by somebody who saw completion `left` (a or b) on the left.

    Both bad is a tie in every count: neither is preferred. A skip, and an undo, take the label out of every count.

    Raises:
        DataError: the choice or a flag is unknown, a skip has no reason, both bad no flag, or the text is too long.
    """
    if choice not in CHOICES:
        raise DataError(f"{choice[:20]!r} is no choice", remedy=f"choices: {', '.join(CHOICES)}")
    kept = tuple(flag for flag in FLAGS if flag in set(flags))
    if unknown := set(flags) - set(FLAGS):
        raise DataError(f"{sorted(unknown)[0][:20]!r} is no flag", remedy=f"flags: {', '.join(FLAGS)}")
    text = words_of(rationale)
    if len(text) > RATIONALE_CHARS:
        raise DataError(f"a rationale has at most {RATIONALE_CHARS} characters", remedy="shorten it")
    if "\x00" in text:
        raise DataError("a rationale holds no NUL character", remedy="remove it")
    if choice == "skip" and not text:
        raise DataError("a skip needs a reason", remedy="say why in the rationale")
    if choice == "both-bad" and not kept:
        raise DataError("both bad needs a flag", remedy="say with a flag what is wrong")
    if choice in SCALE:
        towards_a = SCALE[choice][1] if left == "a" else -SCALE[choice][1]
        verdict: Verdict = "tie" if towards_a == 0 else "a" if towards_a > 0 else "b"
        return Judgement(choice, verdict, towards_a, kept, text)
    return Judgement(choice, "tie" if choice == "both-bad" else "skip", None, kept, text)
