"""Estimators of KL(policy || reference) from samples of the policy, in nats, and the coefficient's controller.

With x = log p(y) - log q(y) on y sampled from p (Schulman, "Approximating KL divergence", 2020). As a value and
as a term that is differentiated through log p, an estimator may be right or wrong independently:

| | value | expected gradient when differentiated | use |
|---|---|---|---|
| k1 = x | unbiased, may be negative | 0: no pull at all | in a reward, as a constant |
| k2 = x^2 / 2 | biased unless p is near q | that of KL(p, q): right | in a loss |
| k3 = exp(-x) - 1 + x | unbiased, at least 0, low variance | that of KL(q, p): another divergence | logging |

k1 in the reward gives the right gradient because the policy gradient multiplies it by grad log p, which is what
differentiating k2 does too. All of this holds for samples of the present policy; samples of an older one need the
importance ratio. None is clamped: a floor of zero under k1 would bias the sum upwards and move the optimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlback.maths.masking import masked_sum


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """log p - log q, elementwise, in nats. For rewards; differentiated it has an expected gradient of 0."""
    return logps - reference_logps


def k2(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """(log p - log q)^2 / 2, elementwise; at least 0. For a loss: its expected gradient is that of the KL.

    Its value is not the KL in nats unless the two policies are near each other, so it is not for logging.
    """
    return (logps - reference_logps).square() / 2


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """exp(-x) - 1 + x with x = log p - log q, elementwise, in nats; at least 0.

    For logging. As a loss (GRPO, 2402.03300, eq. 4) its expected gradient is that of KL(reference || policy).
    """
    x = logps - reference_logps
    return torch.expm1(-x) + x


def per_completion(token_kl: Tensor, mask: Tensor) -> Tensor:
    """Sum of per-token KL (b, t) over the tokens of each completion (b,), in nats per completion."""
    return masked_sum(token_kl, mask)


def adapt(beta: float, observed_kl: float, target: float, horizon: float, batch: int) -> float:
    """The next KL coefficient: beta * (1 + e * batch / horizon), e = KL / target - 1 clipped to +-0.2.

    Ziegler et al. 1909.08593, section 2.2, where batch / horizon is their K_beta (0.1). KL and `target` are in
    nats per completion; `batch` is the number of completions since the last call, `horizon` the number of
    them over which a steady error of 20 % moves beta by about a fifth. ValueError unless target and horizon are
    positive and batch < 5 * horizon, beyond which one step could turn beta negative.
    """
    if target <= 0 or horizon <= 0 or batch >= 5 * horizon:
        raise ValueError(
            f"adapt needs a positive target and horizon and batch < 5 * horizon; got target {target}, "
            f"horizon {horizon}, batch {batch}"
        )
    error = min(max(observed_kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * batch / horizon)
