"""Losses of the policy."""

from __future__ import annotations

from torch import Tensor

from rlback.maths.masking import masked_sum


def policy_gradient(
    logps: Tensor, mask: Tensor, advantages: Tensor, *, length_normaliser: float, completions: int
) -> Tensor:
    """REINFORCE loss of (part of) a batch: -sum_i A_i sum_t log p(y_it) / (completions * length_normaliser).

    `logps` and `mask` are (b, t), `advantages` (b,). `completions` is the size of the whole batch, not of
    this part, so the losses of the parts add up to the loss of the whole whichever way it is cut.
    Dividing by a fixed length, not by each completion's own, leaves no pressure towards long or short
    completions (Liu et al. 2503.20783, section 3.2).
    """
    return -(advantages * masked_sum(logps, mask)).sum() / (completions * length_normaliser)


def negative_log_likelihood(logps: Tensor, mask: Tensor, *, tokens: float) -> Tensor:
    """-sum of log p (b, t) over the masked tokens / `tokens`, the token count of the whole batch."""
    return -masked_sum(logps, mask).sum() / tokens
