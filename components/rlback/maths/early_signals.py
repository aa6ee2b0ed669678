"""Signs of overoptimisation that need no labels of people: to be logged and looked at, never to approve on.

Arrays are (..., k): the k samples of a prompt, or all actions of a context with their probabilities as weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TailIndex:
    """Hill's estimate and its asymptotic standard error, value / sqrt(k). Small values are heavy tails."""

    value: float
    error: float
    k: int


def hill(values: ArrayLike, k: int | None = None) -> TailIndex:
    """Tail index of the upper tail from the k largest of n values (Hill 1975).

    1 / mean of log(x_(i) / x_(k+1)) over the k largest. For proxy less gold: an index below about 2 says that KL
    alone does not keep the error of a reward model in bounds, a light tail shows by a large index that grows as k
    falls (Kwa et al. 2407.14503). k: a tenth of the values by default. It is not invariant to shifts: give centred
    values. ValueError unless 2 <= k < n and the k + 1 largest are positive and not all equal.
    """
    x = np.sort(np.asarray(values, dtype=float), axis=None)[::-1]
    k = max(2, len(x) // 10) if k is None else k
    if not 2 <= k < len(x):
        raise ValueError(f"Hill's estimate takes 2 or more of the values and leaves one, not {k} of {len(x)}")
    if not x[k] > 0:
        raise ValueError("Hill's estimate needs an upper tail above 0: centre the values, or take a smaller k")
    mean = float(np.log(x[:k] / x[k]).mean())
    if mean == 0:
        raise ValueError("the largest values are all equal, which has no tail index")
    return TailIndex(1 / mean, 1 / mean / math.sqrt(k), k)


def order_agreement(proxy: ArrayLike, gold: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """On-policy accuracy of a reward model: P(proxy and gold order two different samples of a prompt alike), (...).

    Over all pairs of the k samples (..., k), an equal proxy counting one half, pairs of equal gold left out. `weights`
    (..., k), such as the policy's probabilities, weigh a pair by their product, which makes a table exact. nan where no
    pair has different golds.
    """
    p, g = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=float)
    order = np.sign(g[..., :, None] - g[..., None, :])
    alike = 0.5 * (1 + np.sign(p[..., :, None] - p[..., None, :]) * order)
    pair = w[..., :, None] * w[..., None, :] * np.abs(order)
    total = pair.sum((-1, -2))
    with np.errstate(invalid="ignore"):
        return (pair * alike).sum((-1, -2)) / np.where(total > 0, total, np.nan)


def spread_ratio(scores: ArrayLike, scores_start: ArrayLike) -> float:
    """How much more the members of an ensemble differ on a candidate's samples than on the start policy's.

    Scores (m, n) and (m, n'), each member standardised on the same reference samples: mean variance over members
    of the one over that of the other (Coste et al. 2310.02743, figure 10: 2.5 to 3 under plain averaging). ValueError
    for fewer than two members, or none that differ on the start's samples.
    """
    now, start = np.asarray(scores, dtype=float), np.asarray(scores_start, dtype=float)
    if len(now) < 2 or len(now) != len(start):
        raise ValueError("a spread needs the scores of the same two or more members on both sides")
    before = float(start.var(0).mean())
    if before == 0:
        raise ValueError("the members agree on every sample of the start policy: they are copies")
    return float(now.var(0).mean()) / before


def reward_variance(rewards: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean over prompts of the variance of the reward over the policy's own samples (..., k).

    An accurate reward model with little of it optimises slowly (Razin et al. 2503.15477). `weights` (..., k) sum to
    1 along k; without them the k samples weigh the same, with k - 1 in the denominator.
    """
    r = np.asarray(rewards, dtype=float)
    if weights is None:
        return float(r.var(-1, ddof=1).mean())
    w = np.asarray(weights, dtype=float)
    mean = (w * r).sum(-1, keepdims=True)
    return float((w * (r - mean) ** 2).sum(-1).mean())


def squared_mmd(one: ArrayLike, other: ArrayLike, bandwidth: float = 1.0) -> float:
    """Unbiased squared maximum mean discrepancy of two samples of rewards, (n,) and (m,), squared-exponential kernel.

    Gretton et al. 2012, "A kernel two-sample test", lemma 6; 0 in expectation for equal distributions, and may be
    negative. `bandwidth` in units of the rewards: standardise both by the same mean and deviation before. Equal
    distributions do not make rewards equal sample by sample. ValueError for fewer than two of either.
    """
    x, y = np.ravel(np.asarray(one, dtype=float)), np.ravel(np.asarray(other, dtype=float))
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise ValueError("a discrepancy needs two or more rewards on both sides")

    def kernel(a: Array, b: Array) -> float:
        return float(np.exp(-((a[:, None] - b[None]) ** 2) / (2 * bandwidth**2)).sum())

    return (kernel(x, x) - n) / (n * (n - 1)) + (kernel(y, y) - m) / (m * (m - 1)) - 2 * kernel(x, y) / (n * m)
