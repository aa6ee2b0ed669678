"""The Bradley-Terry model of preferences: P(a preferred to b) = sigmoid(r_a - r_b)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pair_losses(chosen: Tensor, rejected: Tensor, *, target: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy in nats of each pair, (n,), from the raw scores of its two completions, (n,) each.

    `target` is the probability that `chosen` is the better one: 1 for a plain label, 1 - e with label
    smoothing e, 1/2 for a tie.
    """
    margin = chosen - rejected
    return -(target * F.logsigmoid(margin) + (1 - target) * F.logsigmoid(-margin))


def loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ties: Tensor | None = None,
) -> Tensor:
    """Weighted mean of `pair_losses` (a scalar): sum(w * loss) / sum(w).

    `weights` (n,) are at least 0; `ties` (n,) marks with 1 the pairs the annotator called equal.
    """
    target: Tensor | float = 1.0 - label_smoothing
    if ties is not None:
        target = target * (1 - ties) + 0.5 * ties
    losses = pair_losses(chosen, rejected, target=target)
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Share of pairs (a scalar) where the chosen completion scores higher; equal scores count one half."""
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean()
