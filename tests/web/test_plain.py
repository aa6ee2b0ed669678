"""What hides, reverses or piles up is shown as a mark; everything else stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlback.web.plain import MOST_PIECES, plain


def marks(text: str, **options) -> list[str]:
    return [p.text for p in plain(text, **options).pieces if p.kind == "mark"]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a\u202eb", "U+202E"), ("a\u2066b", "U+2066"), ("a\u200bb", "U+200B"), ("a\x00b", "U+0000"), ("a\x1b[2Jb", "U+001B"),
        ("a\ud800b", "U+D800"), ("a\ue000b", "U+E000"), ("a\u2028b", "U+2028"), ("a\U000e0041b", "U+E0041"),
        ("a\u3164b", "U+3164"), ("a\rb", "U+000D"), ("a\ufeffb", "U+FEFF"),
    ],
)  # fmt: skip
def test_what_is_not_seen_is_marked(text: str, mark: str):
    """Bidi, zero-width, control, surrogate, private, separator, tag and filler characters."""
    assert marks(text) == [mark]
    shown = "".join(p.text for p in plain(text).pieces if p.kind == "text")
    assert shown.startswith("a")
    assert shown.endswith("b")


def test_runs_of_hidden_characters_are_one_mark():
    """A thousand zero-width spaces do not make a thousand marks."""
    assert marks("\u200b" * 1000) == ["U+200B ×1000"]
    assert marks("\u202e\u200b") == ["U+202E and 1 more hidden"]


def test_text_of_many_scripts_newlines_and_tabs_stays():
    """Arabic, Hebrew, Devanagari with its vowel signs, accents, emoji."""
    text = "مرحبا שלום हिन्दी é e\u0301 tab\tline\nemoji 🙂"
    assert [(p.kind, p.text) for p in plain(text).pieces] == [("text", text)]


def test_combining_characters_are_cut_where_they_pile_up():
    """Four stay, the rest is one mark."""
    found = plain("e" + "\u0301" * 200).pieces
    assert found[0].text == "e" + "\u0301" * 4
    assert found[1].text == "U+0301 ×196"


def test_a_long_text_is_cut_and_says_by_how_much():
    """One line of a million characters, and a limit of its own."""
    assert plain("x" * 1_000_000).left == 1_000_000 - 20_000
    assert plain("abcdef", 4).left == 2


def test_many_pieces_end_in_a_cut():
    """A text that alternates letters and marks is cut too, and every character is accounted for."""
    text = "a\u200b" * 5_000
    found = plain(text)
    assert len(found.pieces) <= MOST_PIECES + 1
    assert sum(len(p.text) for p in found.pieces if p.kind == "text") * 2 + found.left == pytest.approx(len(text), abs=2)


@given(st.text(alphabet=st.characters(codec=None), max_size=400))
def test_any_text_is_shown_without_hidden_characters(text: str):
    """Whatever comes in, what goes out can be encoded and holds none of the categories that hide."""
    import unicodedata

    for piece in plain(text).pieces:
        piece.text.encode("utf-8")
        assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in piece.text)
