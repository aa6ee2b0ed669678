"""Completions from a policy: the same for the same seed, with their log-probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlback.errors import ConfigError, DataError
from rlback.models.llama_decode import LlamaDecoder, can_decode
from rlback.models.policy import Policy, positions_of

#: Finished rows leave the batch once they are this share of it; leaving costs a copy of the cache.
_DROP_SHARE = 0.25


@dataclass
class Samples:
    """What `sample` drew; b rows, t the longest completion.

    prompts: b prompts, one per row. ids: (b, t) long, padded with the pad id. mask: (b, t) True up to and
    including the end token. logps: (b, t) float32, nats, under the sampling distribution, 0 where padded.
    finished: (b,) True where the end token was sampled.
    """

    prompts: list[tuple[int, ...]]
    ids: Tensor
    mask: Tensor
    logps: Tensor
    finished: Tensor

    def completions(self) -> list[tuple[int, ...]]:
        """The sampled ids of each row, end token included, padding left out."""
        lengths = self.mask.sum(1).tolist()
        return [tuple(ids[:length]) for ids, length in zip(self.ids.tolist(), lengths, strict=True)]


class Decoder(Protocol):
    """Next-token logits for rows that grow in step."""

    def prefill(self, ids: Tensor, valid: Tensor, slots: int, rows_of: Tensor) -> Tensor: ...
    def step(self, tokens: Tensor) -> Tensor: ...
    def keep(self, rows: Tensor) -> None: ...


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    samples_per_prompt: int = 1,
    batch_size: int = 256,
) -> Samples:
    """Draw `samples_per_prompt` completions for each prompt; rows are grouped by prompt, in the order given.

    Sampling is from the whole distribution (no top-k, no top-p) of logits / temperature, by inverting its
    cumulative sum at one uniform number per row and step. These numbers come from `seed` before anything
    else happens, so `batch_size` changes the speed and not the result (up to rounding of the logits).

    Raises ConfigError for a temperature or count that is not positive, DataError for an empty prompt or one
    that leaves no room for `max_new_tokens`.
    """
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("temperature", temperature),
        ("samples_per_prompt", samples_per_prompt),
        ("batch_size", batch_size),
    ):
        if not value > 0:
            raise ConfigError(f"{name} is {value}", remedy=f"set {name} above 0")
    limit = positions_of(policy.model)
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(f"prompt {number} has no tokens", remedy="encode prompts with encode_prompt")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones that is more "
                f"than the model's {limit} positions",
                remedy="shorten the prompt, lower max_new_tokens or raise max_positions",
            )
    rows = [tuple(prompt) for prompt in prompts for _ in range(samples_per_prompt)]
    uniforms = torch.rand(len(rows), max_new_tokens, generator=torch.Generator().manual_seed(seed))
    device, pad_id = policy.model.device, policy.tokenizer.pad_token_id
    ids = torch.full((len(rows), max_new_tokens), pad_id, device=device)
    logps = torch.zeros(len(rows), max_new_tokens, device=device)
    length = torch.zeros(len(rows), dtype=torch.long, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    was_training = policy.model.training
    policy.model.eval()
    with torch.inference_mode():
        longest = max(map(len, rows), default=0) + max_new_tokens
        model = policy.model
        decoder: Decoder = LlamaDecoder(model, longest) if can_decode(model) else CacheDecoder(model)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            drawn = _sample_batch(
                decoder, policy, [rows[r] for r in chosen], uniforms[chosen].to(device), temperature
            )
            index = torch.tensor(chosen, device=device)
            for target, source in zip((ids, logps, length, finished), drawn, strict=True):
                target[index] = source
    policy.model.train(was_training)
    longest = int(length.max()) if rows else 0
    mask = torch.arange(longest, device=device) < length[:, None]
    return Samples(rows, ids[:, :longest].clone(), mask, logps[:, :longest].clone(), finished)


def _sample_batch(
    decoder: Decoder, policy: Policy, prompts: list[tuple[int, ...]], uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids (b, n), logps (b, n), length (b,), finished (b,) for one batch."""
    device, (rows, steps) = uniforms.device, uniforms.shape
    pad_id, eos_id = policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id
    ids = torch.full((rows, steps), pad_id, device=device)
    logps = torch.zeros(rows, steps, device=device)
    length = torch.full((rows,), steps, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)

    distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    longest = max(map(len, distinct))
    padded = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in distinct], device=device)
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in distinct], device=device)
    rows_of = torch.tensor([distinct[prompt] for prompt in prompts], device=device)
    logits = decoder.prefill(padded, valid, longest + steps, rows_of)

    alive = torch.arange(rows, device=device)  # which row of the batch each row of the decoder is
    for step in range(steps):
        token, logp = _draw(logits, uniforms[:, step], temperature)
        ids[alive, step] = token
        logps[alive, step] = logp
        ended = (token == eos_id) & ~finished[alive]
        length[alive[ended]] = step + 1
        finished[alive[ended]] = True
        if step + 1 == steps:
            break
        going = ~finished[alive]
        left = int(going.sum())
        if left == 0:
            break
        if left <= (1 - _DROP_SHARE) * len(alive):
            kept = going.nonzero().squeeze(1)
            decoder.keep(kept)
            alive, token, uniforms = alive[kept], token[kept], uniforms[kept]
        logits = decoder.step(token)
    past = torch.arange(steps, device=device) >= length[:, None]
    return ids.masked_fill_(past, pad_id), logps.masked_fill_(past, 0.0), length, finished


def _draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Token (r,) at which the cumulative probability passes `uniform` (r,), and its log-probability (r,)."""
    if temperature != 1.0:
        logits = logits / temperature
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    token = torch.searchsorted(cumulative, uniform[:, None] * total, right=True).clamp_(
        max=logits.shape[-1] - 1
    )
    return token[:, 0], (shifted.gather(-1, token) - weights.sum(-1, keepdim=True).log())[:, 0]


class CacheDecoder:
    """Decoding through `past_key_values`, for every other architecture."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def prefill(self, ids: Tensor, valid: Tensor, slots: int, rows_of: Tensor) -> Tensor:
        """As LlamaDecoder.prefill; the cache grows by itself, `slots` is not needed."""
        self.valid = valid.long()
        positions = (self.valid.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids, positions, None)[rows_of]
        self.cache.batch_select_indices(rows_of)
        self.valid = self.valid[rows_of]
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """As LlamaDecoder.step."""
        self.valid = torch.cat([self.valid, self.valid.new_ones(len(tokens), 1)], 1)
        return self._forward(tokens[:, None], self.valid.sum(1, keepdim=True) - 1, self.cache)

    def keep(self, rows: Tensor) -> None:
        """As LlamaDecoder.keep."""
        self.cache.batch_select_indices(rows)
        self.valid = self.valid[rows]

    def _forward(self, ids: Tensor, positions: Tensor, cache: object) -> Tensor:
        extra = {"position_ids": positions} if self.takes_positions else {}
        output = self.model(
            input_ids=ids, attention_mask=self.valid, past_key_values=cache, use_cache=True, **extra
        )
        self.cache = output.past_key_values
        return output.logits[:, -1].float()
