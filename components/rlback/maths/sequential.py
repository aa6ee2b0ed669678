"""Tests of a gate that stay valid however often one looks, and what noise does to them (science, section 2.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_MEANS = 400


@dataclass(frozen=True)
class Bounds:
    """Lower and upper bound after each observation, (n,) each; at every time at once with probability 1 - alpha."""

    lower: Array
    upper: Array


def betting_bounds(observations: ArrayLike, alpha: float = 0.05) -> Bounds:
    """Confidence sequence for the mean of observations in [0, 1], (n,), valid at any stopping time.

    Two gamblers bet against each mean m, one on higher and one on lower values, with half the capital each; a
    mean is rejected once the capital reaches 1 / alpha (Waudby-Smith and Ramdas 2010.09686, theorem 3). By
    Ville's inequality the true mean is ever rejected with probability at most alpha. Bets depend on earlier
    observations only. Means are tried on a grid of 1/400, and the bounds lie one grid step outside
    what was kept. ValueError for an alpha outside (0, 1) or observations outside [0, 1].
    """
    y = np.asarray(observations, dtype=float)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    if y.size and not ((y >= 0) & (y <= 1)).all():
        raise ValueError("observations of a betting test lie in [0, 1]")
    means = np.linspace(0, 1, _MEANS + 1)
    with np.errstate(divide="ignore"):
        most_up, most_down = 0.5 / means, 0.5 / (1 - means)
    log_up, log_down = np.zeros_like(means), np.zeros_like(means)
    lower, upper = np.empty(len(y)), np.empty(len(y))
    alive = np.ones_like(means, dtype=bool)
    for t, (bet, value) in enumerate(zip(_bets(y, alpha), y, strict=True)):
        # A bet of at most half of what would ruin the gambler keeps the capital positive. At mean 0 (or 1) the
        # observation can only be at or above (below) it, and any finite bet will do.
        log_up += np.log1p(np.minimum(bet, most_up) * (value - means))
        log_down += np.log1p(-np.minimum(bet, most_down) * (value - means))
        alive &= np.logaddexp(log_up, log_down) - math.log(2) < math.log(1 / alpha)
        kept = means[alive]
        # With no mean left (probability at most alpha) the bounds stay where they were.
        lower[t] = kept[0] - 1 / _MEANS if len(kept) else lower[t - 1]
        upper[t] = kept[-1] + 1 / _MEANS if len(kept) else upper[t - 1]
    return Bounds(np.clip(lower, 0, 1), np.clip(upper, 0, 1))


def first_decision(bounds: Bounds, threshold: float) -> tuple[int, bool] | None:
    """Observations used and whether the mean lies above `threshold`, at the first time the bounds exclude it."""
    above, below = bounds.lower > threshold, bounds.upper < threshold
    decided = np.flatnonzero(above | below)
    return (int(decided[0]) + 1, bool(above[decided[0]])) if len(decided) else None


def attempt_alpha(alpha: float, checkpoint: int, attempt: int) -> float:
    """Share of alpha that one attempt may spend: alpha (6 / pi^2)^2 / (c^2 a^2), counted from 1.

    Over all checkpoints and attempts it adds up to alpha, so that by the union bound a false approval anywhere in
    a campaign has probability at most alpha. ValueError for counts below 1.
    """
    if checkpoint < 1 or attempt < 1:
        raise ValueError("checkpoints and attempts are counted from 1")
    return alpha * (6 / math.pi**2) ** 2 / (checkpoint * attempt) ** 2


def repeated_false_approval(alpha: float, attempts: int) -> float:
    """Chance of at least one false approval in independent attempts at `alpha` each: 1 - (1 - alpha)^m."""
    return -math.expm1(attempts * math.log1p(-alpha))


def selection_pressure(attempts: int) -> float:
    """Upper bound in nats on the selection by the best of m attempts: log m - (m - 1) / m. ValueError for m < 1."""
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, not {attempts}")
    return math.log(attempts) - (attempts - 1) / attempts


def agreement_seen(accuracy: float, label_accuracy: float) -> float:
    """Agreement with labels right with probability q, of a model right with probability acc: q acc + (1-q)(1-acc)."""
    return label_accuracy * accuracy + (1 - label_accuracy) * (1 - accuracy)


def accuracy_behind(agreement: float, label_accuracy: float) -> float:
    """The inverse of `agreement_seen`: (agreement - (1 - q)) / (2 q - 1); errors taken as symmetric, independent.

    May leave [0, 1] by sampling error, and is not clipped, which would bias a mean. ValueError for q <= 1/2, where
    labels say nothing.
    """
    if label_accuracy <= 0.5:
        raise ValueError(f"labels right with probability {label_accuracy} carry no information to correct for")
    return (agreement - (1 - label_accuracy)) / (2 * label_accuracy - 1)


def label_accuracy_from_duplicates(same: float) -> float:
    """q from the share of comparisons labelled the same way twice, independently: q^2 + (1-q)^2 = same, q >= 1/2.

    A share below one half, by sampling error, gives 1/2.
    """
    return 0.5 + 0.5 * math.sqrt(max(0.0, 2 * same - 1))


def zero_failures_needed(rate: float, delta: float = 0.05) -> int:
    """Audited samples without a failure that bound the failure rate by `rate` at confidence 1 - delta.

    Smallest n with (1 - rate)^n <= delta. ValueError unless both lie between 0 and 1.
    """
    if not (0 < rate < 1 and 0 < delta < 1):
        raise ValueError("rate and delta must lie between 0 and 1")
    return math.ceil(math.log(delta) / math.log1p(-rate))


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    error: float


def prediction_powered(
    labels: Sequence[float] | Array, predictions: Sequence[float] | Array, unlabelled: Sequence[float] | Array
) -> Estimate:
    """Mean label from n labelled items and the predictions of N more: mean f(unlabelled) + mean(y - f) (labelled).

    Angelopoulos et al. 2301.09633. Unbiased whatever the predictions, if they were not fitted on these labels;
    the error is small where they are good. ValueError for fewer than two of either.
    """
    y, f, more = (np.asarray(v, dtype=float) for v in (labels, predictions, unlabelled))
    if len(y) != len(f) or len(y) < 2 or len(more) < 2:
        raise ValueError("needs a prediction for every label, and two or more labelled and unlabelled items")
    error = math.sqrt(float((y - f).var(ddof=1)) / len(y) + float(more.var(ddof=1)) / len(more))
    return Estimate(float(more.mean() + (y - f).mean()), error)


def _bets(y: Array, alpha: float) -> Array:
    """Stakes (n,), each from the observations before it: the predictable plug-in of the paper, section 4.2."""
    t = np.arange(1, len(y) + 1)
    mean = (0.5 + y.cumsum()) / (t + 1)
    variance = (0.25 + ((y - mean) ** 2).cumsum()) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]]) if len(y) else variance
    return np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t)))
