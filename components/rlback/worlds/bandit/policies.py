"""Softmax policies over contexts and actions: exact value, KL, KL-regularised optimum and gradients.

A policy is its log-probabilities, (..., x, a), with contexts equally likely; KL and values are means over
contexts, in nats and in units of reward per response.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Halvings of the inverse temperature's logarithm over 60 nats: the width left is below 1e-14.
_HALVINGS = 60
_LOG_RANGE = (-30.0, 30.0)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities (..., x, a) of logits of the same shape."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def value(log_policy: Array, reward: Array) -> Array:
    """Expected reward (...,) of a policy (..., x, a) under a reward table (..., x, a)."""
    return (np.exp(log_policy) * reward).sum(-1).mean(-1)


def spread(log_policy: Array, reward: Array) -> Array:
    """Standard deviation (...,) of the reward over contexts and the policy's actions together."""
    return np.sqrt(np.maximum(value(log_policy, reward**2) - value(log_policy, reward) ** 2, 0.0))


def kl(log_policy: Array, log_reference: Array) -> Array:
    """KL(policy || reference) in nats per response, (...,); exact."""
    return (np.exp(log_policy) * (log_policy - log_reference)).sum(-1).mean(-1)


def optimum(log_reference: Array, reward: Array, beta: float | Array) -> Array:
    """The policy that maximises E[reward] - beta KL: reference times exp(reward / beta), normalised by context.

    `beta` > 0 is a scalar or (...,), one for each seed. (The Gibbs policy of science, section 2.4; Rafailov et
    al. 2305.18290, eq. 4.) ValueError for a beta that is not positive.
    """
    beta = np.asarray(beta, dtype=float)
    if not (beta > 0).all():
        raise ValueError("the KL-regularised optimum needs beta > 0")
    return log_softmax(log_reference + reward / beta[..., None, None])


def optimal_objective(log_reference: Array, reward: Array, beta: float) -> Array:
    """The largest E[reward] - beta KL that any policy has, (...,): beta log Z, averaged over contexts."""
    exponent = log_reference + reward / beta
    top = exponent.max(-1, keepdims=True)
    return beta * (top[..., 0] + np.log(np.exp(exponent - top).sum(-1))).mean(-1)


def optimum_at_kl(log_reference: Array, reward: Array, target: float | Array) -> Array:
    """The policy with the highest expected reward among those with KL to the reference of at most `target` nats.

    Bisection on the inverse temperature, in which the KL grows monotonically (science, section 2.4). Where the
    greedy policy itself is nearer than `target`, or the reward is the same for all actions, the result is as
    near to the target as there is a policy to be had.
    """

    def distance(log_inverse: Array) -> Array:
        return kl(_tilted(log_reference, reward, log_inverse), log_reference)

    return _tilted(log_reference, reward, _bisect(distance, target, reward.shape[:-2]))


def optimum_at_value(log_reference: Array, reward: Array, target: float | Array) -> Array:
    """The policy nearest to the reference (in KL) with an expected reward of `target`, by bisection.

    Where no policy attains the target, the greedy one; where the reference exceeds it, the reference.
    """

    def attained(log_inverse: Array) -> Array:
        return value(_tilted(log_reference, reward, log_inverse), reward)

    return _tilted(log_reference, reward, _bisect(attained, target, reward.shape[:-2]))


def reward_gradient(log_policy: Array, reward: Array) -> Array:
    """Exact gradient of the expected reward with respect to the logits, (..., x, a): p (r - E[r | x]) / contexts."""
    p = np.exp(log_policy)
    return p * (reward - (p * reward).sum(-1, keepdims=True)) / reward.shape[-2]


def objective_gradient(log_policy: Array, log_reference: Array, reward: Array, beta: float) -> Array:
    """Exact gradient of E[reward] - beta KL(policy || reference) with respect to the policy's logits."""
    return reward_gradient(log_policy, reward - beta * (log_policy - log_reference))


def ascend(log_policy: Array, log_reference: Array, reward: Array, *, beta: float, rate: float, steps: int) -> Array:
    """The policy after `steps` of exact gradient ascent with step `rate` on E[reward] - beta KL."""
    for _ in range(steps):
        gradient = objective_gradient(log_policy, log_reference, reward, beta)
        log_policy = log_softmax(log_policy + rate * gradient)
    return log_policy


def best_of_n(log_reference: Array, proxy: Array, n: int) -> Array:
    """Exact log-probabilities of the best of n draws by the proxy, ties broken in proportion to the reference.

    P(proxy of the best <= v) = P(proxy <= v)^n; the mass of each level of the proxy is shared among its actions.
    ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"best of n needs n >= 1, got {n}")
    p = np.exp(log_reference)
    at_most = (p[..., None, :] * (proxy[..., None, :] <= proxy[..., :, None])).sum(-1)
    level = (p[..., None, :] * (proxy[..., None, :] == proxy[..., :, None])).sum(-1)
    mass = np.minimum(at_most, 1.0) ** n - np.maximum(at_most - level, 0.0) ** n
    with np.errstate(divide="ignore"):
        chosen = np.log(np.maximum(mass, 0.0)) + np.log(p) - np.log(level)
    return log_softmax(np.maximum(chosen, -700.0))


def _tilted(log_reference: Array, reward: Array, log_inverse: Array) -> Array:
    return log_softmax(log_reference + np.exp(log_inverse)[..., None, None] * reward)


def _bisect(measure, target: float | Array, shape: tuple[int, ...]) -> Array:  # type: ignore[no-untyped-def]
    """Logarithm of the inverse temperature at which the increasing `measure` reaches the target."""
    low, high = np.full(shape, _LOG_RANGE[0]), np.full(shape, _LOG_RANGE[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = measure(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low
