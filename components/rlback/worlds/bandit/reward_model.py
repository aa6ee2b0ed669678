"""The bandit's reward model: Bradley-Terry, linear in the visible features, fitted by Newton's method.

It is misspecified where gold depends on features it does not see, which is the source of overoptimisation here.
"""

from __future__ import annotations

import numpy as np

from rlback.worlds.bandit.annotators import Pairs, at
from rlback.worlds.bandit.policies import Array
from rlback.worlds.bandit.problem import Bandit


def fit(bandit: Bandit, pairs: Pairs, *, ridge: float = 1.0, weights: Array | None = None, steps: int = 25) -> Array:
    """Coefficients (s, f) that minimise the pairs' cross-entropy in nats plus ridge / 2 times their squared norm.

    `weights` (s, n) at least 0; 0 leaves a pair out, so that seeds may have different numbers of pairs. The
    objective is strictly convex; each Newton step is halved until it lowers it. ValueError for ridge <= 0, without
    which separable labels have no optimum.
    """
    if ridge <= 0:
        raise ValueError("ridge must be positive: separable labels have no finite fit without it")
    x = at(bandit.visible, pairs.context, pairs.a) - at(bandit.visible, pairs.context, pairs.b)
    w = np.ones_like(pairs.a_wins) if weights is None else weights
    theta = np.zeros((x.shape[0], x.shape[-1]))
    for _ in range(steps):
        p = 0.5 * (1 + np.tanh(_dot(x, theta) / 2))
        gradient = _dot(x.swapaxes(-1, -2), w * (p - pairs.a_wins)) + ridge * theta
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = x.swapaxes(-1, -2) @ ((w * p * (1 - p))[..., None] * x) + ridge * np.eye(x.shape[-1])
        move = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        theta = _shortened(theta, move, x, pairs.a_wins, w, ridge)
    return theta


def loss(x: Array, a_wins: Array, theta: Array, weights: Array, ridge: float) -> Array:
    """Penalised cross-entropy (s,) of feature differences x (s, n, f) at theta (s, f)."""
    margin = _dot(x, theta)
    return (weights * (np.logaddexp(0, margin) - a_wins * margin)).sum(-1) + ridge / 2 * (theta**2).sum(-1)


def score(bandit: Bandit, theta: Array) -> Array:
    """Scores (s, x, a) of every action under coefficients (s, f), in Bradley-Terry log-odds."""
    return np.einsum("sxaf,sf->sxa", bandit.visible, theta)


def _dot(x: Array, theta: Array) -> Array:
    return (x @ theta[..., None])[..., 0]


def _shortened(theta: Array, move: Array, x: Array, a_wins: Array, w: Array, ridge: float) -> Array:
    before = loss(x, a_wins, theta, w, ridge)
    length = np.ones(len(theta))
    for _ in range(30):
        # At the optimum the two differ by rounding alone, which no shorter move would mend.
        worse = loss(x, a_wins, theta - length[:, None] * move, w, ridge) > before * (1 + 1e-12)
        if not worse.any():
            break
        length = np.where(worse, length / 2, length)
    return theta - length[:, None] * move
