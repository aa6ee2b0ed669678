"""Reward-model training on preference pairs with the Bradley-Terry loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlback.errors import DataError
from rlback.maths import bradley_terry
from rlback.maths.masking import length_chunks
from rlback.models.reward_model import RewardModel
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import RewardConfig
from rlback.training.batches import Tokens, by_length, epoch_slice, total_lengths
from rlback.training.state import StageState, tokens_digest, weights_digest
from rlback.training.updates import adam, apply_update, precision, warmup_cosine


@dataclass(frozen=True)
class TokenPair:
    """A preference pair as token ids: the very ids that were sampled, end token included."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    weight: float = 1.0


def fit_reward(
    reward_model: RewardModel,
    pairs: Sequence[TokenPair],
    config: RewardConfig,
    *,
    seed: int,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
) -> dict[str, float]:
    """Train in place; returns the last epoch's `loss` and `accuracy` on the pairs as they were met.

    Scores are left as they come out: call the model's `rescale` on reference samples before they are used as
    a reward, or the KL coefficient changes its meaning with every fit. Resumes exactly as `train_base` does.
    Raises DataError on no pairs or an empty side, TrainingDiverged on a loss or gradient that is not finite.
    """
    _check(pairs)
    steps = max(1, math.ceil(config.epochs * len(pairs) / config.batch))
    reward_model.eval()
    optimiser = adam(_groups(reward_model, config), lr=config.lr, betas=config.betas)
    data = tokens_digest(ids for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected))
    weights = [pair.weight for pair in pairs]
    identity = digest_of(["reward", asdict(config), seed, data, weights, weights_digest(reward_model)])
    state = StageState(state_dir, identity, reward_model, optimiser, every_s=save_every_s)
    first, kept = state.resume()
    history: list[list[float]] = kept.get("history", [])
    per_epoch = max(1, len(pairs) // config.batch)
    device = next(reward_model.parameters()).device
    sides = _Sides.of(reward_model, pairs)

    for step in range(first, steps):
        batch = epoch_slice(len(pairs), config.batch, seed_of(seed, "reward order"), step)
        with precision(config.precision, device):
            chosen, rejected = sides.scores(reward_model, batch, config.max_padded)
        loss = bradley_terry.loss(
            chosen,
            rejected,
            weights=torch.tensor([weights[i] for i in batch], device=device),
            label_smoothing=config.label_smoothing,
        )
        penalty = config.score_l2 * 0.5 * (chosen.square().mean() + rejected.square().mean())
        (loss + penalty).backward()
        value = float(loss.detach())
        norm = apply_update(
            optimiser,
            clip=config.clip,
            factor=warmup_cosine(step, steps=steps, warmup=config.warmup),
            stage="reward model",
            step=step,
            loss=value,
        )
        history = [*history, [value, float(bradley_terry.accuracy(chosen, rejected))]][-per_epoch:]
        state.keep(step + 1, {"history": history}, now=step + 1 == steps)
        report(step + 1, steps, {**_means(history), "grad_norm": norm})
    return _means(history)


@torch.no_grad()
def pair_scores(
    reward_model: RewardModel, pairs: Sequence[TokenPair], *, max_padded: int = 4096
) -> tuple[Tensor, Tensor]:
    """Raw scores of the chosen and of the rejected completions, (n,) each, in the order of `pairs`."""
    _check(pairs)
    reward_model.eval()
    return _Sides.of(reward_model, pairs).scores(reward_model, range(len(pairs)), max_padded)


@dataclass(frozen=True)
class _Sides:
    """Both sides of all pairs, (prompt, completion) each: the chosen of every pair, then the rejected.

    `surprise` holds each row's log-probs under the reward model's frozen policy (None without that channel):
    they never change, so they are computed once and not in every epoch.
    """

    prompts: list[Tokens]
    completions: list[Tokens]
    surprise: list[Tensor] | None

    @classmethod
    def of(cls, reward_model: RewardModel, pairs: Sequence[TokenPair]) -> _Sides:
        prompts = [pair.prompt for pair in pairs] * 2
        completions = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        if not reward_model.shape.surprise:
            return cls(prompts, completions, None)
        surprise: list[Tensor] = [torch.empty(0)] * len(prompts)
        for part in length_chunks(total_lengths(prompts, completions), 4096):
            rows = reward_model.surprise([prompts[i] for i in part], [completions[i] for i in part])
            for i, row in zip(part, rows, strict=True):
                surprise[i] = row[: len(completions[i])].clone()
        return cls(prompts, completions, surprise)

    def scores(
        self, reward_model: RewardModel, batch: Sequence[int], max_padded: int
    ) -> tuple[Tensor, Tensor]:
        """Raw fp32 scores of the chosen and of the rejected sides of the pairs `batch`, (n,) each.

        Both sides go through the same length-sorted parts, so a long and a short side do not pad each other.
        """
        rows = [*batch, *(i + len(self.prompts) // 2 for i in batch)]

        def score(part: list[int]) -> Tensor:
            chosen = [rows[i] for i in part]
            return reward_model(
                [self.prompts[i] for i in chosen],
                [self.completions[i] for i in chosen],
                None if self.surprise is None else [self.surprise[i] for i in chosen],
            )

        lengths = total_lengths([self.prompts[i] for i in rows], [self.completions[i] for i in rows])
        scores = by_length(score, lengths, max_padded).float()
        return scores[: len(batch)], scores[len(batch) :]


def _groups(reward_model: RewardModel, config: RewardConfig) -> list[dict[str, object]]:
    """Trainable parameters by part (trunk, per-token table, heads), each at its own rate.

    A trunk that was pretrained needs small steps, a head that starts at nothing large ones. Vectors (norms)
    are not decayed.
    """
    factors = {"trunk": config.trunk_lr_factor, "token_table": config.token_table_lr_factor}
    groups: dict[tuple[float, float], dict[str, object]] = {}
    for name, parameter in reward_model.named_parameters():
        if parameter.requires_grad:
            lr = config.lr * factors.get(name.split(".")[0], config.head_lr_factor)
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def _means(history: Sequence[Sequence[float]]) -> dict[str, float]:
    count = max(1, len(history))
    return {
        "loss": sum(row[0] for row in history) / count,
        "accuracy": sum(row[1] for row in history) / count,
    }


def _check(pairs: Sequence[TokenPair]) -> None:
    if not pairs:
        raise DataError("there are no preference pairs", remedy="collect labels first")
    for number, pair in enumerate(pairs):
        if not (len(pair.prompt) and len(pair.chosen) and len(pair.rejected)):
            raise DataError(
                f"preference pair {number} has an empty prompt or completion", remedy="remove empty pairs"
            )
