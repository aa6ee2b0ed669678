"""Text to token ids and back: two tokenizers of our own, and one way to call any of them.

Every tokenizer here has three distinct tokens `<pad>`, `<bos>` and `<eos>`. Text never turns into one of
them: a prompt that contains the letters "<eos>" is encoded as those letters (or as `<unk>` at word level).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlback.errors import CheckpointError, DataError
from rlback.records import Answer

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def word_level(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per whitespace-separated word; unknown words become `<unk>`.

    Ids: the words in the order given, then `<unk>`, `<pad>`, `<bos>`, `<eos>`. Raises DataError for a word
    that is repeated, empty, holds whitespace or is a special token.
    """
    seen: set[str] = set()
    for word in vocabulary:
        if word in seen or word in (PAD, BOS, EOS, UNK) or not word or word.split() != [word]:
            raise DataError(
                f"vocabulary word {word!r} is repeated, empty, a special token or holds whitespace",
                remedy="give each word once, without spaces",
            )
        seen.add(word)
    # The special tokens stay out of the model's own table, so that no word of a text can look them up.
    table = {word: index for index, word in enumerate([*vocabulary, UNK])}
    backend = Tokenizer(models.WordLevel(table, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(backend, unk_token=UNK)


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from `texts`: deterministic, lossless on any text, no `<unk>`.

    `vocab_size` counts the three special tokens and the 256 bytes; fewer tokens result when the texts run
    out of pairs to merge. Raises DataError when it is below 259.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 3:
        raise DataError(
            f"vocab_size {vocab_size} is below {len(alphabet) + 3} (256 bytes and 3 special tokens)",
            remedy=f"set vocab_size to {len(alphabet) + 3} or more",
        )
    backend = Tokenizer(models.BPE())
    # The splitting rule keeps punctuation apart from letters, so no merge can ever spell "<eos>".
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 3, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return _wrap(backend)


def _wrap(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        **special,
    )


def ensure_special_tokens(tokenizer: PreTrainedTokenizerFast, place: str) -> bool:
    """Give a foreign tokenizer a pad token of its own; True when one was added.

    A pad token that equals the end token makes "is this the end or just padding?" unanswerable, so it is
    replaced as well. Raises CheckpointError (naming `place`) when there is no end token: such a policy
    cannot stop.
    """
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"the tokenizer in {place} has no end token",
            remedy="set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
        return False
    name = PAD
    while name in tokenizer.get_vocab():
        name = f"<{name}>"
    tokenizer.add_special_tokens({"pad_token": AddedToken(name, special=True, normalized=False)})
    return True


def encode_prompt(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Start token (if the tokenizer has one) and the ids of `text`. Raises DataError if that is nothing."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = start + _encode(tokenizer, text)
    if not ids:
        raise DataError("an empty prompt has no tokens with this tokenizer", remedy="give the prompt a text")
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of `text` and the end token."""
    return [*_encode(tokenizer, text), tokenizer.eos_token_id]


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens left out. Bytes that are no UTF-8 become U+FFFD."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def answers_in(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], own: Sequence[bool], text: str
) -> tuple[Answer, ...]:
    """The runs of tokens of a completion that the policy did not choose, with where they stand in its `text`.

    `own` says of each of `ids` whether the policy chose it; `text` is `decode(tokenizer, ids)`. A token that holds a part
    of a character begins where that character does.
    """
    edges = [i for i in range(len(own) + 1) if (i < len(own) and not own[i]) != (i > 0 and not own[i - 1])]
    places = {i: _place(text, decode(tokenizer, ids[:i])) for i in edges}
    return tuple((first, last, places[first], places[last]) for first, last in zip(edges[::2], edges[1::2], strict=True))


def _place(text: str, beginning: str) -> int:
    """How far a text agrees with what should be its beginning."""
    if text.startswith(beginning):
        return len(beginning)
    return next(i for i, (one, other) in enumerate(zip(text + "\0", beginning + "\1", strict=False)) if one != other)


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids = _plain(tokenizer, text)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if special.isdisjoint(ids):
        return ids
    # Some foreign vocabularies hold their special tokens as ordinary pieces too. Cut each literal one after
    # its first character and encode the parts on their own.
    literals = sorted((t for t in tokenizer.all_special_tokens if len(t) > 1), key=len, reverse=True)
    pieces: list[str] = []
    start = 0
    for match in re.finditer("|".join(map(re.escape, literals)), text):
        pieces.append(text[start : match.start() + 1])
        start = match.start() + 1
    pieces.append(text[start:])
    ids = [token for piece in pieces for token in _plain(tokenizer, piece)]
    if not special.isdisjoint(ids):
        raise DataError(
            "a text turns into a special token with this tokenizer",
            remedy=f"remove {', '.join(literals)} from the text",
        )
    return ids


def _plain(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    # The backend itself: transformers' own call around it takes twice as long as the encoding, and a base policy's
    # texts are tens of thousands. What that call sets first is set here.
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return list(backend.encode(text, add_special_tokens=False).ids)
