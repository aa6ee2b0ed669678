"""Given pairs as token ids: what is cut where a text is longer than the model reads."""

from __future__ import annotations

import pytest

from rlback.models.tokenizers import word_level
from rlback.records import PreferencePair
from rlback.training.given_pairs import token_pair

PAIR = PreferencePair(prompt="a b c d", chosen="e f g h", rejected="e")


@pytest.mark.parametrize("start", [True, False])
def test_the_end_of_a_prompt_and_the_beginning_of_a_completion_are_read(start: bool):
    """A start token stays in front where the tokenizer has one; without one no other token takes its place."""
    tokenizer = word_level(list("abcdefgh"))
    if not start:
        tokenizer.bos_token = None
    found = token_pair(tokenizer, PAIR, prompt_limit=3, completion_limit=3)
    assert tokenizer.convert_ids_to_tokens(found.prompt) == (["<bos>", "c", "d"] if start else ["b", "c", "d"])
    assert tokenizer.convert_ids_to_tokens(found.chosen) == ["e", "f", "<eos>"]
    assert tokenizer.convert_ids_to_tokens(found.rejected) == ["e", "<eos>"]
