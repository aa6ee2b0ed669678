"""A policy that writes what a table says, and an environment that repeats, for episodes worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlback.environments.protocol import Reply
from rlback.models.policy import Policy

torch.set_num_threads(1)


def scripted(tokenizer: PreTrainedTokenizerFast, following: Mapping[str, str], positions: int = 64) -> Policy:
    """After each word (or special token) of `following` comes the other one; the chance of anything else is below 1e-9.

    A Llama whose layers add nothing: a token's state is its own one-hot embedding, and the output matrix is the table.
    """
    size = len(tokenizer) + len(tokenizer) % 2
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=positions, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        for word, after in following.items():
            one, other = tokenizer.convert_tokens_to_ids([word, after])
            model.lm_head.weight[other, one] = 30.0 / size**0.5  # the norm scales a one-hot state by sqrt(size)
    return Policy(model, tokenizer)


@dataclass(frozen=True)
class Echo:
    """Answers a turn with its tokens backwards, `rounds` times; the last answer ends the episode with `farewell`."""

    rounds: int = 2
    farewell: tuple[int, ...] = ()
    name: str = "echo"
    max_turns: int = 10
    turn_tokens: int = 4
    stop: frozenset[int] = frozenset()

    def begin(self, prompt: Sequence[int], seed: int) -> tuple[int, ...]:
        return ()

    def answer(self, state: tuple[int, ...], turn: tuple[int, ...]) -> Reply[tuple[int, ...]]:
        state = (*state, len(turn))
        if len(state) == self.rounds:
            return Reply(state, self.farewell, done=True)
        return Reply(state, turn[::-1])

    def lineage(self) -> dict[str, Any]:
        return {"name": self.name, "rounds": self.rounds}


@dataclass(frozen=True)
class Dice(Echo):
    """Answers with a number that depends on the seed and the turn: an environment with chance of its own."""

    def begin(self, prompt: Sequence[int], seed: int) -> tuple[int, ...]:
        return (seed,)

    def answer(self, state: tuple[int, ...], turn: tuple[int, ...]) -> Reply[tuple[int, ...]]:
        rolled = (state[0] // 7 ** len(state)) % 7
        return Reply((*state, rolled), (rolled,), done=len(state) == self.rounds)
