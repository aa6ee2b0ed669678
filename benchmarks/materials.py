"""The models and data that both sides are given: the same weights, the same token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.shapes import NEW_TOKENS, PROMPT_TOKENS, ROW_TOKENS, Shape
from rlback.models.policy import Policy, new_policy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.models.tokenizers import word_level
from rlback.records import seed_of
from rlback.settings import ModelShape, RewardShape
from rlback.training.reward import TokenPair
from rlback.training.state import tokens_digest

Ids = list[int]
#: What a side says of its run: digests of weights and data, tokens a step. The two sides' must agree.
Facts = dict[str, Any]


@cache
def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Words w0, w1, ... and the special tokens, `vocab` ids in all."""
    return word_level([f"w{number}" for number in range(vocab - 4)])


@cache
def endless_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """As `tokenizer` with one word more, so that the end token's id is `vocab`: a model of `vocab` rows never ends.

    Each side looks for the end token after every step, and each side generates every token it is asked for.
    """
    made = word_level([f"w{number}" for number in range(vocab - 3)])
    assert made.eos_token_id == vocab
    return made


def policy(shape: Shape, *, endless: bool) -> Policy:
    """The policy both sides start from; its weights depend on the shape alone."""
    size = ModelShape(
        d_model=shape.d_model, layers=shape.layers, heads=shape.heads, mlp=shape.mlp, max_positions=2 * ROW_TOKENS
    )
    made = new_policy(size, tokenizer(shape.vocab), seed_of("benchmark weights", shape.name))
    assert made.model.num_parameters() == shape.parameters
    if not endless:
        return made
    words = endless_tokenizer(shape.vocab)
    for config in (made.model.config, made.model.generation_config):
        config.pad_token_id, config.bos_token_id = words.pad_token_id, words.bos_token_id
        config.eos_token_id = words.eos_token_id
    return Policy(made.model, words)


def reward_model(base: Policy) -> RewardModel:
    """A reward model of the policy's size that reads the last token: what a sequence classifier is, too."""
    return new_reward_model(base, RewardShape(pooling="last"), seed=seed_of("benchmark reward head"))


def prompts(shape: Shape, count: int) -> list[Ids]:
    """`count` prompts of words drawn evenly."""
    return _words(shape, count, PROMPT_TOKENS, "prompts")


def pairs(shape: Shape, count: int) -> list[TokenPair]:
    """`count` preference pairs: a prompt, and two completions of the same length, each with its end token."""
    end = tokenizer(shape.vocab).eos_token_id
    chosen, rejected = (_words(shape, count, NEW_TOKENS - 1, side) for side in ("chosen", "rejected"))
    return [
        TokenPair(prompt, [*a, end], [*b, end])
        for prompt, a, b in zip(prompts(shape, count), chosen, rejected, strict=True)
    ]


def pairs_digest(given: Sequence[TokenPair]) -> str:
    """SHA-256 over all token ids of preference pairs."""
    return tokens_digest([ids for pair in given for ids in (pair.prompt, pair.chosen, pair.rejected)])


def text(words: PreTrainedTokenizerFast, ids: Ids) -> str:
    """The text that `words` turns into exactly these ids."""
    return " ".join(words.convert_ids_to_tokens(ids))


def _words(shape: Shape, count: int, length: int, purpose: str) -> list[Ids]:
    draw = torch.Generator().manual_seed(seed_of("benchmark data", shape.name, purpose))
    return torch.randint(0, shape.vocab - 4, (count, length), generator=draw).tolist()
