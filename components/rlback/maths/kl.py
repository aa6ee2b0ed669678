"""Estimators of KL(policy || reference) from samples of the policy, in nats.

With x = log p(y) - log q(y) on y sampled from p (Schulman, "Approximating KL divergence", 2020):
k1 = x is unbiased; k3 = exp(-x) - 1 + x is unbiased too, never negative and of lower variance. k1 belongs in
a reward (its gradient through log p is right there); k3 is for logging only, since its gradient is biased.
Neither is clamped: a floor of zero under k1 would bias the sum upwards and move the optimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlback.maths.masking import masked_sum


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """log p - log q, elementwise, in nats."""
    return logps - reference_logps


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """exp(-x) - 1 + x with x = log p - log q, elementwise, in nats; at least 0."""
    x = logps - reference_logps
    return torch.expm1(-x) + x


def per_completion(token_kl: Tensor, mask: Tensor) -> Tensor:
    """Sum of per-token KL (b, t) over the tokens of each completion (b,), in nats per completion."""
    return masked_sum(token_kl, mask)
