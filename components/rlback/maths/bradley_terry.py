"""The Bradley-Terry model of preferences: P(a preferred to b) = sigmoid(r_a - r_b)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pair_losses(
    chosen: Tensor, rejected: Tensor, *, target: Tensor | float = 1.0, margin: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy in nats of each pair, (n,), from the raw scores of its two completions, (n,) each.

    `target` is the probability that `chosen` is the better one: 1 for a plain label, 1 - e with label
    smoothing e, 1/2 for a tie. `margin` (at least 0, in units of score) is the lead that the better one is asked
    to have, whichever it is: -log sigmoid(r_chosen - r_rejected - m), Touvron et al. 2307.09288, eq. 2. Swapping
    the two completions and replacing the target by 1 - target leaves the loss as it is.
    """
    lead = chosen - rejected
    return -(target * F.logsigmoid(lead - margin) + (1 - target) * F.logsigmoid(-lead - margin))


def loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ties: Tensor | None = None,
    votes: Tensor | None = None,
    margins: Tensor | None = None,
) -> Tensor:
    """Weighted mean of `pair_losses` (a scalar): sum(w * loss) / sum(w). Every argument but the scores is (n,).

    `weights` are at least 0. `votes` is the share of annotators who preferred the first completion (named
    `chosen` here, whatever the share) and takes the place of the label. `ties` marks with 1 the pairs the
    annotators called equal; their target is 1/2 and `votes` is not looked at. `label_smoothing` e moves a
    target t to (1 - e) t + e (1 - t). `margins`: see `pair_losses`.
    """
    target: Tensor | float = 1.0 - label_smoothing
    if votes is not None:
        target = votes * (1 - label_smoothing) + (1 - votes) * label_smoothing
    if ties is not None:
        equal = (ties > 0).to(chosen)
        target = target * (1 - equal) + 0.5 * equal
    losses = pair_losses(chosen, rejected, target=target, margin=0.0 if margins is None else margins)
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean over pairs (a scalar) of (r_chosen + r_rejected)^2, from scores (n,) each.

    Bradley-Terry sees differences only, so the level of the scores drifts; this penalty, times a small
    coefficient, pulls it to 0 and leaves the difference free (Eisenstein et al. 2312.09244, eq. 2).
    """
    return (chosen + rejected).square().mean()


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Share of pairs (a scalar) where the chosen completion scores higher; equal scores count one half."""
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean()
