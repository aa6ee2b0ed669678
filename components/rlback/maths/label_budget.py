"""How many labels a decision takes: the exact binomial test, Wald's sequential test, noise, and the best of several.

Closed forms for planning, and the one test (Wald's) that is cheaper than a confidence sequence where both of its
hypotheses are fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc


@dataclass(frozen=True)
class SequentialTest:
    """Wald's test of a win rate of p0 against p1 > p0 (Wald 1945, "Sequential tests of statistical hypotheses").

    alpha bounds the chance of deciding for p1 under p0, beta that of deciding for p0 under p1; both hold up to the
    overshoot of the last label, which errs on the safe side for alpha / (1 - beta) and beta / (1 - alpha).
    ValueError unless 0 < p0 < p1 < 1 and alpha + beta < 1.
    """

    p0: float
    p1: float
    alpha: float = 0.05
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.p0 < self.p1 < 1:
            raise ValueError(f"a sequential test needs 0 < p0 < p1 < 1, got {self.p0} and {self.p1}")
        if not (self.alpha > 0 and self.beta > 0 and self.alpha + self.beta < 1):
            raise ValueError(f"error rates must be above 0 and sum to less than 1, got {self.alpha} and {self.beta}")

    @property
    def boundaries(self) -> tuple[float, float]:
        """Log likelihood ratio at or below which p0 is taken, and at or above which p1 is."""
        return math.log(self.beta / (1 - self.alpha)), math.log((1 - self.beta) / self.alpha)

    def decide(self, wins: Sequence[float] | NDArray[np.float64]) -> tuple[int, Literal["p0", "p1"]] | None:
        """Labels used and the decision, from wins (1) and losses (0) in order; None while undecided.

        Half wins (ties) move the ratio by half of both. Labels after the decision are not looked at.
        """
        y = np.asarray(wins, dtype=float)
        up, down = math.log(self.p1 / self.p0), math.log((1 - self.p1) / (1 - self.p0))
        ratio = np.cumsum(y * up + (1 - y) * down)
        low, high = self.boundaries
        out = np.flatnonzero((ratio <= low) | (ratio >= high))
        return (int(out[0]) + 1, "p1" if ratio[out[0]] >= high else "p0") if len(out) else None

    def mean_labels(self) -> tuple[float, float]:
        """Expected labels if the candidate is good (p1) and if it is bad (p0), by Wald's approximation.

        It takes the ratio to end on a boundary, so the true means are a little higher.
        """
        low, high = self.boundaries
        up, down = math.log(self.p1 / self.p0), math.log((1 - self.p1) / (1 - self.p0))
        good = ((1 - self.beta) * high + self.beta * low) / (self.p1 * up + (1 - self.p1) * down)
        bad = (self.alpha * high + (1 - self.alpha) * low) / (self.p0 * up + (1 - self.p0) * down)
        return good, bad


def binomial_labels(p0: float, p1: float, alpha: float = 0.05, power: float = 0.9, limit: int = 20_000) -> int:
    """Fewest labels with which the exact one-sided binomial test of p0 has this power at p1.

    The power of an exact test does not rise monotonically; this is the first number that reaches it. ValueError
    unless 0 < p0 < p1 < 1, or where more than `limit` would be needed.
    """
    if not 0 < p0 < p1 < 1:
        raise ValueError(f"the test needs 0 < p0 < p1 < 1, got {p0} and {p1}")
    for n in range(1, limit + 1):
        wins = np.arange(n + 1)
        critical = int(np.argmax(bdtrc(wins, n, p0) <= alpha)) + 1  # P(X >= critical | p0) <= alpha
        if critical <= n and bdtrc(critical - 1, n, p1) >= power:
            return n
    raise ValueError(f"telling {p1} from {p0} takes more than {limit} labels")


def labels_for_width(half_width: float, z: float = 1.959963984540054) -> int:
    """Labels that make the normal interval of any share at most this wide on either side: ceil(z^2 / (4 w^2))."""
    if not half_width > 0:
        raise ValueError(f"a half width is above 0, not {half_width}")
    return math.ceil(z**2 / (4 * half_width**2))


def noise_factor(label_accuracy: float) -> float:
    """By how much labels right with probability q raise the number needed: 1 / (2 q - 1)^2. ValueError for q <= 1/2."""
    if not 0.5 < label_accuracy <= 1:
        raise ValueError(f"labels right with probability {label_accuracy} carry no information")
    return 1 / (2 * label_accuracy - 1) ** 2


def winners_bias(rate: float, labels: int, attempts: int) -> float:
    """By how much the best of `attempts` win rates of n labels each overstates the rate they all have; exact.

    E[max of m independent binomial shares] - rate = sum_k (1 - P(X <= k)^m) / n - rate. The remedy is new labels for
    the winner, whose rate is then unbiased. ValueError for a rate outside [0, 1] or counts below 1.
    """
    if not 0 <= rate <= 1 or labels < 1 or attempts < 1:
        raise ValueError("a rate lies in [0, 1], and labels and attempts are 1 or more")
    at_most = bdtr(np.arange(labels), labels, rate)
    return float((1 - at_most**attempts).sum() / labels - rate)
