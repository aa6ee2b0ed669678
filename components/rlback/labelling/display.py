"""Model text made safe to look at: nothing a policy writes may move the cursor, hide or reverse a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

#: Format characters that change how what follows is read: bidi marks, embeddings, overrides, isolates,
#: zero-width characters and tags are all in Unicode's categories Cf and Cc.
_HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")


def in_line(text: str) -> str:
    """The same on one line, so that what somebody wrote cannot look like a line of ours."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """The text with control, format and private-use characters shown as marks; newlines stay."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in _HIDDEN else " " if c == "\t" else f"⟦U+{ord(c):04X}⟧"
        for c in text
    )


def completion(text: str, answers: Iterable[Sequence[int]], finished: bool, limit: int) -> str:
    """A completion as a terminal shows it: at most `limit` characters of it, what an environment wrote (`records.Answer`) in
    marks, and a mark where it was cut off before it ended."""
    whole, place = "", 0
    for _, _, first, last in answers:
        if first < last:
            whole += f"{text[place:first]}⟦tool: {text[first:last]}⟧"
            place = last
    return shortened(whole + text[place:], limit) + ("" if finished else " ⟦cut off⟧")


def shortened(text: str, limit: int) -> str:
    """The first `limit` characters of a text, made visible, and how many there are more."""
    more = f" … ({len(text) - limit} more characters)" if len(text) > limit else ""
    return visible(text[:limit]).strip("\n") + more
