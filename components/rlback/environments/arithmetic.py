"""Integer arithmetic in words, evaluated by hand: numbers digit by digit, `+`, `-`, `*` and brackets.

    sum     = product { ("+" | "-") product }
    product = factor { "*" factor }
    factor  = "-" factor | "(" sum ")" | digit { digit }

What is evaluated was written by a policy, so nothing here trusts it: Python's own evaluator is never called, and the
length, the depth, every number and every intermediate result are capped.
"""

from __future__ import annotations

from collections.abc import Sequence

DIGITS = tuple("0123456789")
MAX_WORDS = 64
MAX_DIGITS = 6
MAX_DEPTH = 8
#: No result, an intermediate one included, is as large as this in size.
BOUND = 10**12


class NoValue(Exception):
    """Words that have no value here: they follow no rule above, or a cap is passed."""


def evaluate(words: Sequence[str]) -> int:
    """The value of an expression. Raises NoValue, and nothing else, for whatever has none."""
    if len(words) > MAX_WORDS:
        raise NoValue(f"more than {MAX_WORDS} words")
    value, place = _sum(words, 0, 0)
    if place != len(words):
        raise NoValue(f"{words[place]!r} at word {place + 1}")
    return value


def spell(value: int) -> tuple[str, ...]:
    """An integer in words that `evaluate` reads back: `-`, then digits."""
    return tuple(str(value))


def _sum(words: Sequence[str], place: int, depth: int) -> tuple[int, int]:
    value, place = _product(words, place, depth)
    while place < len(words) and words[place] in ("+", "-"):
        other, after = _product(words, place + 1, depth)
        value = _bounded(value + other if words[place] == "+" else value - other)
        place = after
    return value, place


def _product(words: Sequence[str], place: int, depth: int) -> tuple[int, int]:
    value, place = _factor(words, place, depth)
    while place < len(words) and words[place] == "*":
        other, place = _factor(words, place + 1, depth)
        value = _bounded(value * other)
    return value, place


def _factor(words: Sequence[str], place: int, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        raise NoValue(f"nested deeper than {MAX_DEPTH}")
    word = words[place] if place < len(words) else None
    if word == "-":
        value, after = _factor(words, place + 1, depth + 1)
        return -value, after
    if word == "(":
        value, after = _sum(words, place + 1, depth + 1)
        if after == len(words) or words[after] != ")":
            raise NoValue("a bracket is not closed")
        return value, after + 1
    after = place
    while after < len(words) and words[after] in DIGITS:
        after += 1
    if not 0 < after - place <= MAX_DIGITS:
        raise NoValue(f"no number of 1 to {MAX_DIGITS} digits at word {place + 1}")
    return int("".join(words[place:after])), after


def _bounded(value: int) -> int:
    if abs(value) >= BOUND:
        raise NoValue("a number is too large")
    return value
