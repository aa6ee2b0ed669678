from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlback.errors import CheckpointError, DataError
from rlback.models.tokenizers import (
    decode,
    encode_completion,
    encode_prompt,
    ensure_special_tokens,
    train_byte_bpe,
    word_level,
)

TEXTS = ["the soup was cold <eos> and", "the soup was warm <eos> again", "<eos> <eos> <eos>"] * 40


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_byte_bpe(TEXTS, 300)


def test_word_level_ids_follow_the_vocabulary():
    """Words take ids in the order given, then come <unk>, <pad>, <bos> and <eos>."""
    tokenizer = word_level(["a", "b", "."])
    assert encode_prompt(tokenizer, "b  a\n.") == [5, 1, 0, 2]
    assert encode_completion(tokenizer, "a zebra") == [0, 3, 6]
    assert decode(tokenizer, [1, 0, 6, 4]) == "b a"
    assert len(tokenizer) == 7


def test_pad_bos_and_eos_are_three_tokens(bpe: PreTrainedTokenizerFast):
    """Padding never looks like an end token in either tokenizer."""
    for tokenizer in (word_level(["a"]), bpe):
        assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
        assert max(tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) < len(tokenizer)


@pytest.mark.parametrize("word", ["a", "", "two words", "<eos>", "<unk>"])
def test_word_level_refuses_bad_words(word: str):
    """A repeated, empty, spaced or special word is refused."""
    with pytest.raises(DataError, match="vocabulary word"):
        word_level(["a", word])


@pytest.mark.parametrize("text", ["<eos>", "x <pad><bos>", "<bos> <eos> end"])
def test_literal_special_tokens_stay_text(bpe: PreTrainedTokenizerFast, text: str):
    """Writing "<eos>" into a prompt makes no special token; byte-level BPE gives the letters back."""
    words = word_level(["x", "end"])
    for tokenizer in (bpe, words):
        special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
        assert special.isdisjoint(encode_prompt(tokenizer, text)[1:])
        assert special.isdisjoint(encode_completion(tokenizer, text)[:-1])
    assert decode(bpe, encode_prompt(bpe, text)) == text


@pytest.mark.parametrize("text", ["", "héllo\n\n  wörld\t", "日本 🙂", "a . b , c ' d", "\x00\ufffe"])
def test_bpe_is_lossless(bpe: PreTrainedTokenizerFast, text: str):
    """Any text comes back unchanged."""
    assert decode(bpe, encode_completion(bpe, text)) == text


def test_bpe_survives_invalid_bytes(bpe: PreTrainedTokenizerFast):
    """Sampled ids that are no UTF-8 decode to the replacement character, not to an error."""
    lone = encode_prompt(bpe, "é")[1]
    assert "\ufffd" in decode(bpe, [lone])


def test_bpe_training_is_deterministic(bpe: PreTrainedTokenizerFast):
    """The same texts give the same tokenizer file; the size asked for is an upper bound."""
    again = train_byte_bpe(iter(TEXTS), 300)
    assert again.backend_tokenizer.to_str() == bpe.backend_tokenizer.to_str()
    assert 259 < len(bpe) <= 300
    with pytest.raises(DataError, match="259"):
        train_byte_bpe(TEXTS, 258)


def foreign(**special: str) -> PreTrainedTokenizerFast:
    backend = train_byte_bpe(TEXTS, 300).backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_foreign_tokenizer_gets_its_own_pad():
    """No pad token, or a pad token equal to the end token, leads to a new one."""
    for special in ({"eos_token": "<eos>"}, {"eos_token": "<eos>", "pad_token": "<eos>"}):
        tokenizer = foreign(**special)
        before = len(tokenizer)
        assert ensure_special_tokens(tokenizer, "base")
        assert (
            tokenizer.pad_token_id == before
        )  # "<pad>" is in this vocabulary already, so the new one is "<<pad>>"
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert not ensure_special_tokens(foreign(eos_token="<eos>", pad_token="<pad>"), "base")


def test_foreign_tokenizer_without_end_is_refused():
    """A policy that cannot stop is refused by name."""
    with pytest.raises(CheckpointError, match=r"some/base.*no end token"):
        ensure_special_tokens(foreign(bos_token="<bos>"), "some/base")


def test_foreign_piece_equal_to_a_special_token():
    """A vocabulary that holds "</s>" as an ordinary piece cannot be made to emit the end token."""
    pieces = [("</s>", 0.0), ("<", -3.0), ("/s>", -3.0), ("a", -3.0), ("<unk>", -9.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=4))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    assert encode_completion(tokenizer, "a</s>a") == [3, 1, 2, 3, 0]


def test_a_tokenizer_file_that_cuts_and_pads_does_neither_here():
    """A file may ask for 2 tokens a text, cut or padded; what is encoded is the text, as transformers itself would."""
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<eos>": 2, "<pad>": 3}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(2)
    backend.enable_padding(length=2, pad_id=3, pad_token="<pad>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    held = tokenizer.backend_tokenizer
    held.enable_truncation(2)
    held.enable_padding(length=2, pad_id=3, pad_token="<pad>")
    assert encode_completion(tokenizer, "a b a b") == [0, 1, 0, 1, 2]
    assert encode_completion(tokenizer, "b") == [1, 2]
