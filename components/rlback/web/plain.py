"""Texts that policies and people wrote, cut into pieces that are safe and honest to show. Pure.

The pieces are still to be escaped, which the templates do. What would hide, reverse or pile up is replaced by a mark
that says what stands there: a reader sees that there is something, and the rest of the page stays as it is.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

SHOWN_CHARS = 20_000
MOST_COMBINING = 4
MOST_PIECES = 2_000

#: Control, format (bidi, zero-width, tags), private-use, surrogate and unassigned characters, line separators.
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
#: Letters and symbols by category that show as nothing at all: Hangul fillers, braille blank, invisible joiners.
_BLANK = {0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x034F}


@dataclass(frozen=True)
class Piece:
    """A run of text as it is, or a mark in place of what cannot be shown."""

    kind: Literal["text", "mark"]
    text: str


@dataclass(frozen=True)
class Plain:
    """A text to be shown; `left` characters of it were cut off."""

    pieces: tuple[Piece, ...]
    left: int

    def as_json(self) -> dict[str, object]:
        """As lists, for a page's JSON."""
        return {"pieces": [[p.kind, p.text] for p in self.pieces], "left": self.left}


def plain(text: str, limit: int = SHOWN_CHARS) -> Plain:
    """At most `limit` characters of a text in pieces; newlines and tabs stay, CR LF is one newline.

    More than `MOST_COMBINING` combining characters in a row, and everything after `MOST_PIECES` pieces, is one mark.
    """
    pieces: list[Piece] = []
    run: list[str] = []
    marked: list[str] = []
    piled = 0
    position = 0
    shown = text[:limit].replace("\r\n", "\n")

    def close() -> None:
        if run:
            pieces.append(Piece("text", "".join(run)))
            run.clear()

    def close_marks() -> None:
        if marked:
            pieces.append(Piece("mark", _named(marked)))
            marked.clear()

    for position, char in enumerate(shown):
        category = unicodedata.category(char)
        piled = piled + 1 if category in ("Mn", "Me") else 0
        if piled > MOST_COMBINING or (category in _UNSEEN and char not in "\n\t") or ord(char) in _BLANK:
            close()
            marked.append(char)
        else:
            close_marks()
            run.append(char)
        if len(pieces) >= MOST_PIECES:
            position += 1
            break
    close()
    close_marks()
    cut = max(0, len(shown) - position - 1) if len(pieces) >= MOST_PIECES else 0
    return Plain(tuple(pieces), max(0, len(text) - limit) + cut)


def _named(chars: list[str]) -> str:
    """`U+202E`, `U+202E ×3`, or how many of several kinds there are."""
    first = f"U+{ord(chars[0]):04X}"
    if len(chars) == 1:
        return first
    if len(set(chars)) == 1:
        return f"{first} ×{len(chars)}"
    return f"{first} and {len(chars) - 1} more hidden"
