"""Conversations told apart from texts."""

from __future__ import annotations

import pytest

from rlback.data.shapes import render_messages
from rlback.web.turns import shown_prompt, turns


def test_a_conversation_is_its_turns():
    """As the reader of preferences writes it; the turn that is to be written is no turn yet."""
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\n\nthere"},
        {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Why: this?"},
    ]  # fmt: skip
    assert turns(render_messages(messages)) == [
        ("system", "Be brief."), ("user", "Hello\n\nthere"), ("assistant", "Hi"), ("user", "Why: this?"),
    ]  # fmt: skip
    assert turns("\n\nHuman: q\n\nTool: 42\n\nAssistant:") == [("user", "q"), ("tool result", "42")]


@pytest.mark.parametrize("text", ["", "a question", "Human kind: what is it?", "Note\n\nHuman: said", "Human: one line"])
def test_a_text_is_no_conversation(text):
    """Marks in the middle of a text, or one alone without its blank line, make none."""
    assert turns(text) == []


def test_what_is_hostile_in_a_turn_is_shown_as_marks():
    """As anywhere else; a cut prompt says how much is missing."""
    shown = shown_prompt("\n\nHuman: \u202eevil\n\nAssistant:", 8_000)
    assert shown["turns"] == [{"role": "user", "pieces": [["mark", "U+202E"], ["text", "evil"]], "left": 0}]
    assert shown_prompt("\n\nHuman: " + "x" * 100, 50)["left"] == 59
