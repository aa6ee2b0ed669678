"""Losses of the policy and of its value function.

`logps` and `mask` are (b, t); the mask is bool or 0/1 float, 1 for a token the policy chose, and whatever stands
under 0 (padding, environment tokens, not-a-numbers) reaches neither a loss nor a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlback.maths.bradley_terry import pair_losses
from rlback.maths.masking import masked_mean, masked_sum

Level = Literal["token", "sequence"]
Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def negative_log_likelihood(logps: Tensor, mask: Tensor, *, tokens: float) -> Tensor:
    """-sum of log p (b, t) over the masked tokens / `tokens`, the token count of the whole batch."""
    return -masked_sum(logps, mask).sum() / tokens


@dataclass(frozen=True)
class Clipped:
    """Losses of a clipped objective, each of them with what the clipping did.

    `losses` is (b, t), 0 where the mask is, or (b,) at sequence level; give it to `aggregate`. `clipped` has the
    same shape and marks the entries without a gradient because of the clipping; `share` is their share (a
    scalar) of the policy's tokens, or of the completions that have any.
    """

    losses: Tensor
    clipped: Tensor
    share: Tensor


def log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor, *, level: Level, limit: float = 20.0) -> Tensor:
    """log p - log p_old in nats: per token (b, t), 0 where the mask is, or their sum per completion (b,).

    Clamped to +-`limit`, at sequence level after summing. The clamp only keeps exp from overflowing: e^20 is far
    outside any clip range, so no ratio that could still be trained on is touched. Where it acts, the gradient is
    0, also for the negative advantages whose ratio `clipped_surrogate` leaves unclipped above.
    """
    difference = torch.where(mask > 0, logps - old_logps, 0.0)
    return (difference if level == "token" else difference.sum(-1)).clamp(-limit, limit)


def clipped_surrogate(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, low: float, high: float, level: Level
) -> Clipped:
    """PPO's clipped objective as losses, -min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 1707.06347, eq. 7).

    `level` "token": one ratio r per token, `advantages` (b, t), or (b,) for all tokens of a completion alike
    (GRPO, PPO). "sequence": one ratio per completion, the product of its tokens' ratios, `advantages` (b,) (RLOO
    with more than one update a batch). The two differ once r is not 1. It is not the geometric mean of
    GSPO (2507.18071). `low` = `high` = 0.2 is usual; a larger `high` is DAPO's clip-higher (2503.14476, section 3.1).
    ValueError for advantages per token at sequence level.
    """
    real = mask > 0
    if level == "sequence":
        if advantages.dim() != 1:
            raise ValueError("a ratio per completion needs advantages per completion (b,), not per token")
        real = real.any(-1)
    elif advantages.dim() == 1:
        advantages = advantages[:, None]
    advantages = torch.where(real, advantages, 0.0)
    ratio = log_ratio(logps, old_logps, mask, level=level).exp()
    losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return Clipped(losses, clipped, masked_mean(clipped.float(), real))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> Clipped:
    """Squared error of the value function with clipped updates, per token (b, t); every argument is (b, t).

    max((v - R)^2, (v' - R)^2) / 2 with v' = v clipped to v_old +- clip, as in OpenAI's baselines; `clip` = 0.2 there, in
    units of reward, so it depends on the reward's scale. math.inf clips nothing (Andrychowicz et al. 2006.05990
    found no gain from clipping).
    """
    real = mask > 0
    values, old_values, returns = (torch.where(real, x, 0.0) for x in (values, old_values, returns))
    limited = values.clamp(old_values - clip, old_values + clip)
    plain_error, limited_error = (values - returns).square(), (limited - returns).square()
    clipped = limited_error > plain_error
    return Clipped(torch.maximum(plain_error, limited_error) / 2, clipped, masked_mean(clipped.float(), mask))


def aggregate(
    losses: Tensor,
    mask: Tensor,
    how: Aggregation,
    *,
    tokens: float | None = None,
    completions: int | None = None,
    constant: float | None = None,
) -> Tensor:
    """Losses of (part of) a batch, (b, t) with mask (b, t), as a scalar whose gradients add up over the parts.

    "token_mean": sum / `tokens`; every token weighs the same, so long completions weigh more (DAPO, 2503.14476,
    section 3.3). "sequence_mean": each completion's mean over its own tokens, their sum / `completions`;
    a token of a long completion weighs less (GRPO, 2402.03300, eq. 3). "constant": sum / (`completions` *
    `constant`); no length has an advantage (Dr. GRPO, 2503.20783, section 3.2).

    `tokens` and `completions` count the policy's tokens and the completions of the whole batch, on all devices,
    and only then does the cut not matter; dividing by a part's own counts gives another gradient for every
    cut. Losses per completion (b,) are taken as they are, by "sequence_mean" or "constant". ValueError for a
    total that is needed and missing, and for losses per completion under "token_mean".
    """
    per_completion = losses.dim() == 1
    sums = losses if per_completion else masked_sum(losses, mask)
    if how == "token_mean":
        if per_completion:
            raise ValueError("losses per completion have no mean over tokens; take sequence_mean or constant")
        return sums.sum() / _given(how, tokens=tokens)
    if how == "constant":
        return sums.sum() / (_given(how, completions=completions) * _given(how, constant=constant))
    means = sums if per_completion else sums / mask.sum(-1).clamp(min=1)
    return means.sum() / _given(how, completions=completions)


@dataclass(frozen=True)
class DirectLosses:
    """Losses (n,) of a direct method, times the weights if there are any, and both completions' implicit rewards.

    The implicit reward is beta * (log p - log p_ref) of the whole completion, without a gradient. Divide the sum
    of the losses by the pairs (or the sum of the weights) of the whole batch.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
    weights: Tensor | None = None,
) -> DirectLosses:
    """Direct preference optimisation (Rafailov et al. 2305.18290, eq. 7): Bradley-Terry on the implicit rewards.

    The first four are log-probabilities of whole completions, summed over tokens, (n,) each. `label_smoothing` is
    the probability that a label is wrong, one for all or (n,) (conservative DPO: Mitchell, "A note on DPO with noisy
    preferences", 2023): each loss is then least at a finite margin, where plain DPO asks for ever more.
    """
    chosen, rejected = beta * (policy_chosen - ref_chosen), beta * (policy_rejected - ref_rejected)
    losses = pair_losses(chosen, rejected, target=1.0 - label_smoothing)
    return DirectLosses(losses if weights is None else weights * losses, chosen.detach(), rejected.detach())


def ipo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    lengths: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
) -> DirectLosses:
    """Identity preference optimisation (Azar et al. 2310.12036, eq. 17): (h - 1 / (2 beta))^2; beta is its tau.

    h is the log ratio log p / p_ref of the chosen minus that of the rejected completion; the first four arguments
    are log-probabilities summed over tokens, (n,) each. `lengths`, the token counts of the chosen and the rejected
    completions (n,) each, turns the log ratios in h into means over tokens, so that the target gap is per token
    and not per completion; TRL always does so. The implicit rewards are those of whole completions either way.
    """
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    gap = chosen - rejected if lengths is None else chosen / lengths[0] - rejected / lengths[1]
    losses = (gap - 1 / (2 * beta)).square()
    rewards = beta * chosen.detach(), beta * rejected.detach()
    return DirectLosses(losses if weights is None else weights * losses, *rewards)


def _given(how: str, **total: float | None) -> float:
    ((name, value),) = total.items()
    if value is None:
        raise ValueError(f"aggregating by {how} needs `{name}`, counted over the whole batch")
    return value
