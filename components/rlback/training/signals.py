"""From a rollout to what multiplies the log-probabilities: rewards and advantages, by method. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlback.errors import TrainingDiverged
from rlback.maths import advantages as adv
from rlback.maths import kl
from rlback.maths.losses import Aggregation, Level
from rlback.settings import GRPOConfig, OnlineDPOConfig, OnPolicy, PPOConfig, RLOOConfig
from rlback.training.rollout import Rollout


@dataclass(frozen=True)
class Signals:
    """rewards: (b,) score less penalties and, with KL in the reward, beta * KL. kl: (b,) nats from the reference (k1).

    advantages: (b,) per completion, or (b, t) per token. returns: (b, t), what a value model is fitted to, or None.
    """

    rewards: Tensor
    kl: Tensor
    kl_k3: float
    advantages: Tensor
    returns: Tensor | None = None


def signals(config: OnPolicy, rollout: Rollout, beta: float, values: Tensor | None = None) -> Signals:
    """The learning signal of a rollout under `config`; `values` (b, t) are a value model's, for PPO.

    Raises TrainingDiverged when the advantages of a prompt's completions do not cancel.
    """
    k, mask = config.samples_per_prompt, rollout.mask
    token_kl = kl.k1(rollout.logps, rollout.reference_logps)
    completion_kl = kl.per_completion(token_kl, mask)
    k3 = float(kl.per_completion(kl.k3(rollout.logps, rollout.reference_logps), mask).mean())
    in_reward = config.kl_in == "reward" and not isinstance(config, OnlineDPOConfig)
    charged = beta if in_reward else 0.0
    earned = rollout.scores - config.no_end_penalty * (~rollout.finished).float()
    rewards = earned - charged * completion_kl
    if isinstance(config, PPOConfig):
        assert values is not None
        token_rewards = torch.where(mask, adv.place_score(earned, mask) - charged * token_kl, 0.0)
        raw, returns = adv.gae(token_rewards, values, mask, config.gamma, config.gae_lambda)
        return Signals(rewards, completion_kl, k3, adv.whiten(raw, mask), returns)
    if isinstance(config, GRPOConfig):
        grouped = adv.group_normalised(rewards.view(-1, k), divide_by_std=config.variant == "grpo")
        check_groups(grouped)
        return Signals(rewards, completion_kl, k3, grouped.flatten())
    if isinstance(config, OnlineDPOConfig):
        return Signals(rewards, completion_kl, k3, best_against_worst(earned.view(-1, k)).flatten())
    assert isinstance(config, RLOOConfig)
    by_token = config.objective == "token"
    left_out = adv.leave_one_out((earned if by_token else rewards).view(-1, k))
    check_groups(left_out)
    scaled = (adv.standardise(left_out) if config.advantage_std else left_out).flatten()
    if by_token:
        # Scaled advantages want the KL scaled alike, or beta would mean something else than in the reward.
        scale = float((scaled * left_out.flatten()).sum() / left_out.square().sum().clamp(min=1e-12))
        scaled = adv.token_returns(scaled, token_kl, mask, charged * (scale or 1.0))
    return Signals(rewards, completion_kl, k3, scaled)


def objective_of(config: OnPolicy) -> tuple[Level, Aggregation, float | None]:
    """The ratio's level, how losses are summed, and the fixed length that sums are divided by."""
    if isinstance(config, RLOOConfig):
        return ("sequence" if config.objective == "sequence" else "token"), "constant", config.length_normaliser
    if isinstance(config, GRPOConfig):
        if config.variant == "dr_grpo":
            return "token", "constant", float(config.max_new_tokens)
        return "token", "sequence_mean", None
    return "token", "token_mean", None


def per_completion(values: Tensor, mask: Tensor) -> Tensor:
    """Advantages (b,) of whole completions: as they are, or the mean over the policy's tokens of (b, t)."""
    if values.dim() == 1:
        return values
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def best_against_worst(scores: Tensor) -> Tensor:
    """Scores (prompts, k) to 1 for the best and -1 for the worst of each prompt; a row of equal scores is all 0."""
    marks = torch.zeros_like(scores)
    marks.scatter_(1, scores.argmax(1, keepdim=True), 1.0)
    marks.scatter_(1, scores.argmin(1, keepdim=True), -1.0)
    return torch.where(scores.amax(1, keepdim=True) > scores.amin(1, keepdim=True), marks, 0.0)


def check_groups(grouped: Tensor) -> None:
    """Raises TrainingDiverged unless each row (prompts, k) sums to 0, up to rounding."""
    size = max(1.0, float(grouped.abs().max()))
    worst = float(grouped.sum(-1).abs().max())
    if not worst <= 1e-4 * size or not math.isfinite(size):
        raise TrainingDiverged(
            f"the advantages of a prompt's completions sum to {worst:.3g}, not to 0",
            remedy="check the reward model's scores for values that are not finite",
        )
