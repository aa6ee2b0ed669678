"""Supervised training of the base policy: on prompts with completions, or on plain token streams.

Loss: negative log-likelihood per token. A batch is drawn at random and cut into parts by length whose
gradients are added up under the token count of the whole batch: the gradient of the padded batch, without
computing the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rlback.errors import DataError
from rlback.maths.losses import negative_log_likelihood
from rlback.models.batching import in_parts
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, token_logps
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import SupervisedConfig
from rlback.training.batches import epoch_slice
from rlback.training.parallel import ALONE, Share
from rlback.training.state import StageState, tokens_digest
from rlback.training.updates import adam, apply_update, decay_groups, precision, require_usable, warmup_cosine

#: (prompt ids, completion ids); the loss is taken on the completion.
Example = tuple[Sequence[int], Sequence[int]]
Examples = Sequence[Example]


@dataclass(frozen=True)
class Stream:
    """One long token sequence read in windows; `weight` is its share of the windows drawn in a mixture."""

    tokens: Sequence[int]
    window: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if len(self.tokens) < self.window or self.window < 2:
            raise DataError(
                f"a token stream of {len(self.tokens)} tokens cannot be read in windows of {self.window}",
                remedy="give a longer text or a window of at least 2 and at most its length",
            )

    def at(self, start: int) -> Example:
        """The window at `start`: its first token as prompt, the others as completion."""
        ids = [int(t) for t in self.tokens[start : start + self.window]]
        return ids[:1], ids[1:]


#: Examples, or a mixture of streams.
TrainingText = Examples | Sequence[Stream]


def train_base(
    policy: Policy,
    data: TrainingText,
    config: SupervisedConfig,
    *,
    seed: int,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
    share: Share = ALONE,
) -> dict[str, float]:
    """Train `policy.model` in place; returns the last metrics (`nll` nats per token, `tokens` seen, `steps`).

    Killed and called again with the same arguments and `state_dir`, it ends in the same weights, bit for bit
    (on a CPU). Raises TrainingDiverged on a loss or gradient that is not finite, CheckpointError when
    `state_dir` holds the state of another run, DataError on data it cannot train on.
    """
    _check(data)
    model = policy.model
    policy.digest = None  # these weights will be in no checkpoint
    model.eval()  # no dropout: what is sampled later is what is trained here
    optimiser = adam(decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas)
    identity = digest_of(["supervised", asdict(config), seed, _data_digest(data), weights_digest(model)])
    state = StageState(state_dir, identity, model, optimiser, every_s=save_every_s, writes=share.rank == 0)
    start, kept = state.resume()
    tokens, nll = kept.get("tokens", 0), kept.get("nll", math.nan)

    for step in range(start, config.steps):
        batch = _batch(data, config.batch, seed, step)
        count = sum(len(completion) for _, completion in batch)
        total = 0.0
        for prompts, completions in _parts(share.of(batch), config.max_padded):
            with precision(config.precision, policy.model.device):
                logps, mask = token_logps(model, prompts, completions, policy.tokenizer.pad_token_id)
            loss = negative_log_likelihood(logps.float(), mask, tokens=count)
            loss.backward()
            total += float(loss.detach())
        (total,) = share.add_up(model.parameters(), [total])
        factor = warmup_cosine(step, steps=config.steps, warmup=config.warmup)
        norm = apply_update(
            optimiser, clip=config.clip, factor=factor, stage="base training", step=step, loss=total
        )
        if step + 1 == config.steps:
            prompts, completions = zip(*batch, strict=True)
            require_usable(policy, prompts, completions, config.precision, config.max_padded, stage="base training", step=step)
        tokens += count
        nll = total if math.isnan(nll) else 0.95 * nll + 0.05 * total
        state.keep(step + 1, {"tokens": tokens, "nll": nll}, now=step + 1 == config.steps)
        if share.rank == 0:
            report(step + 1, config.steps, {"nll": nll, "grad_norm": norm, "lr": config.lr * factor})
    return {"nll": nll, "tokens": float(tokens), "steps": float(config.steps)}


@torch.no_grad()
def evaluate_nll(policy: Policy, data: TrainingText, *, max_padded: int = 4096) -> float:
    """Mean negative log-likelihood in nats per completion token; streams are read in adjacent windows."""
    _check(data)
    policy.model.eval()
    total, count = 0.0, 0
    for prompts, completions in _parts(_all_of(data), max_padded):
        logps, mask = token_logps(policy.model, prompts, completions, policy.tokenizer.pad_token_id)
        total += float(negative_log_likelihood(logps.float(), mask, tokens=1.0))
        count += int(mask.sum())
    return total / count


def _is_mixture(data: TrainingText) -> bool:
    return isinstance(data[0], Stream)


def _check(data: TrainingText) -> None:
    if not len(data):
        raise DataError("there is nothing to train on", remedy="give at least one example or stream")
    if not _is_mixture(data) and any(not len(p) or not len(c) for p, c in data):
        raise DataError("an example has an empty prompt or completion", remedy="remove empty examples")


def _batch(data: TrainingText, size: int, seed: int, step: int) -> list[Example]:
    if not _is_mixture(data):
        return [data[i] for i in epoch_slice(len(data), size, seed_of(seed, "supervised order"), step)]
    draw = torch.Generator().manual_seed(seed_of(seed, "supervised windows", step))
    weights = torch.tensor([s.weight for s in data])
    chosen = torch.multinomial(weights, size, replacement=True, generator=draw).tolist()
    starts = torch.rand(size, generator=draw, dtype=torch.float64).tolist()
    streams = [data[i] for i in chosen]
    return [s.at(int(u * (len(s.tokens) - s.window + 1))) for s, u in zip(streams, starts, strict=True)]


def _all_of(data: TrainingText) -> list[Example]:
    if not _is_mixture(data):
        return list(data)
    return [s.at(i) for s in data for i in range(0, len(s.tokens) - s.window + 1, s.window)]


def _parts(
    batch: Sequence[Example], max_padded: int
) -> Iterator[tuple[list[Sequence[int]], list[Sequence[int]]]]:
    prompts, completions = [p for p, _ in batch], [c for _, c in batch]
    for part in in_parts(prompts, completions, max_padded):
        yield [prompts[i] for i in part], [completions[i] for i in part]


def _data_digest(data: TrainingText) -> str:
    if _is_mixture(data):
        return digest_of([[s.window, s.weight, tokens_digest([s.tokens])] for s in data])
    return tokens_digest(ids for example in data for ids in example)
