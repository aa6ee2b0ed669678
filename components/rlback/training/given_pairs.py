"""People's preferences that came as texts, as the token ids a model reads: for fits, for tests of a fit, as base text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rlback.errors import ConfigError
from rlback.maths.bradley_terry import accuracy
from rlback.models.conversations import prompt_ids
from rlback.models.reward_model import RewardModel
from rlback.models.tokenizers import encode_completion, encode_prompt
from rlback.records import PreferencePair, Report, silent
from rlback.training.reward import TokenPair, pair_scores
from rlback.training.supervised import Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def token_pair(
    tokenizer: PreTrainedTokenizerFast, pair: PreferencePair, prompt_limit: int, completion_limit: int
) -> TokenPair:
    """A pair as token ids: of a longer prompt its end, of a longer completion its beginning and the end token."""
    sides = (completion_tokens(tokenizer, text, completion_limit) for text in (pair.chosen, pair.rejected))
    return TokenPair(prompt_tokens(tokenizer, pair.prompt, prompt_limit), *sides, pair.weight)


def prompt_tokens(tokenizer: PreTrainedTokenizerFast, prompt: str, limit: int) -> list[int]:
    """The ids of a prompt, of a longer one its end."""
    ids = prompt_ids(tokenizer, prompt)
    if len(ids) <= limit:
        return ids
    # The end of a conversation is what is answered; a start token, where there is one, stays in front.
    start = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return [*start, *ids[len(ids) - limit + len(start) :]]


def completion_tokens(tokenizer: PreTrainedTokenizerFast, text: str, limit: int, *, finished: bool = True) -> list[int]:
    """The ids of a completion, of a longer one its beginning. The end token stays where the text had an end."""
    ids = encode_completion(tokenizer, text)
    if not finished and len(ids) > 1:
        return ids[:-1][:limit]
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def accuracy_on(
    model: RewardModel, pairs: Sequence[PreferencePair], tokens: Sequence[TokenPair], *, report: Report = silent
) -> dict[str, Any]:
    """Share of `pairs` (`tokens`: the same as ids) that the model orders as people did: `accuracy`, and the same where
    the longer and where the shorter one was chosen, None where there is no such pair. `pairs`: how many. `report` counts as
    `pair_scores` does."""
    chosen, rejected = pair_scores(model, tokens, report=report)

    def over(rows: list[int]) -> float | None:
        return float(accuracy(chosen[rows], rejected[rows])) if rows else None

    return {
        "accuracy": over(list(range(len(pairs)))),
        "accuracy_longer_chosen": over([i for i, p in enumerate(pairs) if len(p.chosen) > len(p.rejected)]),
        "accuracy_shorter_chosen": over([i for i, p in enumerate(pairs) if len(p.chosen) < len(p.rejected)]),
        "pairs": len(pairs),
    }


def texts_of(pairs: Iterable[PreferencePair]) -> list[tuple[str, str]]:
    """Each (prompt, completion) of the pairs once, in the order of the pairs."""
    seen: dict[tuple[str, str], None] = {}
    for pair in pairs:
        for text in (pair.chosen, pair.rejected):
            seen.setdefault((pair.prompt, text))
    return list(seen)


def base_streams(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[tuple[str, str]], plain: str | None, window: int, share: float
) -> list[Stream]:
    """What a base policy is trained on: (prompt, completion) texts one after the other, and the text `plain`, which
    `share` of the windows are drawn from. Without `plain` it is the texts alone; ConfigError where `share` is then 1."""
    documents = [
        token
        for prompt, completion in texts
        for token in (*encode_prompt(tokenizer, prompt), *encode_completion(tokenizer, completion))
    ]
    # A handful of short texts still makes one window.
    documents *= max(1, -(-window // max(1, len(documents))))
    streams = [Stream(documents, window, 1 - share)] if share < 1 else []
    if share > 0 and plain is not None:
        streams.append(Stream(encode_completion(tokenizer, plain)[:-1], window, share))
    elif share == 1:
        raise ConfigError("base.text_share is 1, but no text was given", remedy="add --text PATH")
    return streams
