"""Model text made safe to look at: nothing a policy writes may move the cursor, hide or reverse a text."""

from __future__ import annotations

import unicodedata

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
