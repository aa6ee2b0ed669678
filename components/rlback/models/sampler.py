"""Completions from a policy: the same for the same seed, with their log-probabilities.

One loop draws them all. Rows grow by one token a step; usually the policy draws it, and where something else may
write into a row (an environment that answers between turns), that one says which token stands there instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlback.errors import ConfigError, DataError
from rlback.models.llama_decode import LlamaDecoder, can_decode
from rlback.models.policy import Policy, positions_of
from rlback.settings import Precision

#: Finished rows leave the batch once they are this share of it; leaving costs a copy of the cache.
_DROP_SHARE = 0.25


@dataclass
class Samples:
    """What was drawn; b rows, t the longest completion.

    prompts: b prompts, one per row. ids: (b, t) long, padded with the pad id. lengths: (b,) long, tokens of each
    completion, those of an environment included. mask: (b, t) True on the tokens that the policy chose. logps: (b, t)
    float32, nats, under the sampling distribution, 0 where mask is False. finished: (b,) True where the completion
    came to its end: the end token was sampled, or the environment ended the episode.
    """

    prompts: list[tuple[int, ...]]
    ids: Tensor
    lengths: Tensor
    mask: Tensor
    logps: Tensor
    finished: Tensor

    def completions(self) -> list[tuple[int, ...]]:
        """The ids of each row, end token and environment's tokens included, padding left out."""
        return [tuple(ids[:length]) for ids, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]


class Decoder(Protocol):
    """Next-token logits for rows that grow in step."""

    def prefill(self, ids: Tensor, valid: Tensor, slots: int, rows_of: Tensor) -> Tensor: ...
    def step(self, tokens: Tensor) -> Tensor: ...
    def keep(self, rows: Tensor) -> None: ...


class Placed(NamedTuple):
    """The token that stands next in a row, whether the policy chose it, and whether the row ends with it.

    finished: the row came to its own end; a row that is over without it was cut.
    """

    token: int
    chosen: bool
    over: bool
    finished: bool


#: (row, the token the policy would put next) -> what stands there. Called once a step for every row that goes on.
Place = Callable[[int, int], Placed]


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    samples_per_prompt: int = 1,
    first_row: int = 0,
    batch_size: int = 256,
    precision: Precision = "fp32",
) -> Samples:
    """Draw `samples_per_prompt` completions for each prompt; rows are grouped by prompt, in the order given.

    Sampling is from the whole distribution (no top-k, no top-p) of logits / temperature, by inverting its
    cumulative sum at one uniform number per row and step. These numbers come from `seed` before anything
    else happens, so `batch_size` changes the speed and not the result (up to rounding of the logits). `first_row`:
    these are the rows from there on of a larger request with the same seed, whose numbers they get. With `precision: bf16`
    matrix products are computed in bf16, and the log-probabilities are those of the distribution so rounded.

    Raises ConfigError for a temperature or count that is not positive and for a precision that is not settled,
    DataError for an empty prompt or one that leaves no room for `max_new_tokens`.
    """
    check_request(
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples_per_prompt=samples_per_prompt,
        batch_size=batch_size,
    )
    require_prompts_fit(policy.model, prompts, max_new_tokens)
    rows = [tuple(prompt) for prompt in prompts for _ in range(samples_per_prompt)]
    draw = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(first_row + len(rows), max_new_tokens, generator=draw)[first_row:]
    return grow(policy, rows, uniforms, temperature=temperature, batch_size=batch_size, precision=precision)


def require_prompts_fit(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int, name: str = "model") -> None:
    """DataError for a prompt that leaves no room for `new_tokens` tokens in the positions of a model, called `name`."""
    limit = positions_of(model)
    for number, prompt in enumerate(prompts):
        if limit is not None and len(prompt) + new_tokens > limit:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; with {new_tokens} new ones that is more "
                f"than the {name}'s {limit} positions",
                remedy="shorten the prompt, lower max_new_tokens or raise max_positions",
            )


def check_request(prompts: Sequence[Sequence[int]], **counts: float) -> None:
    """ConfigError for a count or temperature that is not above 0, DataError for an empty prompt."""
    for name, value in counts.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}", remedy=f"set {name} above 0")
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(f"prompt {number} has no tokens", remedy="encode prompts with encode_prompt")


def grow(
    policy: Policy,
    rows: list[tuple[int, ...]],
    uniforms: Tensor,
    *,
    room: Sequence[int] | None = None,
    temperature: float,
    batch_size: int,
    place: Place | None = None,
    precision: Precision = "fp32",
) -> Samples:
    """Let rows of prompt tokens grow: the token at step s of row r inverts the distribution at uniforms[r, s].

    uniforms: (b, t) in [0, 1), on the CPU. room: the most tokens each row may get, at most t; without it t. place:
    says what stands in a row where the policy's token need not; without it a row ends with the end token. precision: of the
    matrix products.
    """
    if precision == "auto":
        raise ConfigError("precision: auto is not settled", remedy="sample in fp32 or bf16")
    steps, device, pad_id = uniforms.shape[1], policy.model.device, policy.tokenizer.pad_token_id
    ids = torch.full((len(rows), steps), pad_id, device=device)
    chosen = torch.zeros(len(rows), steps, dtype=torch.bool, device=device)
    logps = torch.zeros(len(rows), steps, device=device)
    length = torch.zeros(len(rows), dtype=torch.long, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    caps = torch.full((len(rows),), steps, device=device) if room is None else torch.tensor(room, device=device)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    was_training = policy.model.training
    policy.model.eval()
    model = policy.model
    lean, bf16 = can_decode(model), precision == "bf16"
    # One context for all steps: autocast forgets the weights it cast at the end of each.
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16 and not lean):
        longest = max(map(len, rows), default=0) + steps
        decoder: Decoder = (
            LlamaDecoder(model, longest, min(len(rows), batch_size), torch.bfloat16 if bf16 else None)
            if lean
            else CacheDecoder(model)
        )
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            index = torch.tensor(part, device=device)
            drawn = _sample_batch(
                decoder, policy, [rows[r] for r in part], uniforms[part].to(device), caps[index], temperature,
                None if place is None else _by_row(place, part),
            )  # fmt: skip
            for target, source in zip((ids, chosen, logps, length, finished), drawn, strict=True):
                target[index] = source
    policy.model.train(was_training)
    longest = int(length.max()) if rows else 0
    return Samples(
        rows, ids[:, :longest].clone(), length, chosen[:, :longest].clone(), logps[:, :longest].clone(), finished
    )


def _by_row(place: Place, part: Sequence[int]) -> Place:
    return lambda row, token: place(part[row], token)


def _sample_batch(
    decoder: Decoder,
    policy: Policy,
    prompts: list[tuple[int, ...]],
    uniforms: Tensor,
    room: Tensor,
    temperature: float,
    place: Place | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids (b, n), chosen (b, n), logps (b, n), length (b,), finished (b,) for one batch."""
    device, (rows, steps) = uniforms.device, uniforms.shape
    pad_id, eos_id = policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id
    ids = torch.full((rows, steps), pad_id, device=device)
    chosen = torch.zeros(rows, steps, dtype=torch.bool, device=device)
    logps = torch.zeros(rows, steps, device=device)
    length = torch.zeros(rows, dtype=torch.long, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)

    distinct = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    longest = max(map(len, distinct))
    padded = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in distinct], device=device)
    valid = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in distinct], device=device)
    rows_of = torch.tensor([distinct[prompt] for prompt in prompts], device=device)
    logits = decoder.prefill(padded, valid, longest + steps, rows_of)

    ragged = int(room.min()) < steps
    alive = torch.arange(rows, device=device)  # which row of the batch each row of the decoder is
    going = torch.ones(rows, dtype=torch.bool, device=device)  # of the decoder's rows, those without an end yet
    for step in range(steps):
        token, logp = _draw(logits, uniforms[:, step], temperature)
        if place is None:
            over = done = token == eos_id
        else:
            token, own, over, done = _ask(place, alive, going, token)
            chosen[alive, step] = own
        where = slice(None) if len(alive) == rows else alive
        ids[where, step] = token
        logps[where, step] = logp
        ended = going & over
        if ragged or step + 1 == steps:
            ended |= going & (room[alive] == step + 1)
        if bool(ended.any()):
            length[alive[ended]] = step + 1
            finished[alive[ended & done]] = True
            going = going & ~ended
            left = int(going.sum())
            if left == 0:
                break
            # A row without room left must leave at once: its next position may be none of the model's.
            if left <= (1 - _DROP_SHARE) * len(alive) or (ragged and bool((room[alive] == step + 1).any())):
                kept = going.nonzero().squeeze(1)
                decoder.keep(kept)
                alive, token, uniforms, going = alive[kept], token[kept], uniforms[kept], going[kept]
        logits = decoder.step(token)
    past = torch.arange(steps, device=device) >= length[:, None]
    if place is None:
        chosen = ~past
    return ids.masked_fill_(past, pad_id), chosen, logps.masked_fill_(~chosen, 0.0), length, finished


def _ask(place: Place, alive: Tensor, going: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """token, chosen, over, finished, (r,) each, as `place` says for the rows that go on; False for the others."""
    answers = [
        place(row, drawn) if live else Placed(drawn, False, False, False)
        for row, live, drawn in zip(alive.tolist(), going.tolist(), token.tolist(), strict=True)
    ]
    tokens, *flags = zip(*answers, strict=True)
    own, over, done = (torch.tensor(flag, device=token.device) for flag in flags)
    return torch.tensor(tokens, device=token.device), own, over, done


def _draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Token (r,) at which the cumulative probability passes `uniform` (r,), and its log-probability (r,)."""
    if temperature != 1.0:
        logits = logits / temperature
    logps = logits.log_softmax(-1)
    cumulative = logps.exp().cumsum(-1)
    # Times the sum, which rounding leaves a little off 1.
    reached = uniform[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, reached, right=True).clamp_(max=logits.shape[-1] - 1)
    return token[:, 0], logps.gather(-1, token)[:, 0]


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
