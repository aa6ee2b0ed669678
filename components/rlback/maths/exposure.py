"""Misreward exposure by effect: mass moved into a bad set, and gradients that point against gold.

Both shares (science, section 2.2) complement the sample-wise ones of `misreward`, and are kept as numerator and
denominator for the same reason: those of several steps add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Share:
    """part / whole; the sum of two shares is the share of the sums."""

    part: float = 0.0
    whole: float = 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.part + other.part, self.whole + other.whole)

    @property
    def value(self) -> float:
        """In [0, 1]; 0 where nothing moved."""
        return self.part / self.whole if self.whole else 0.0


def bad_mass(log_before: ArrayLike, log_after: ArrayLike, bad: ArrayLike) -> Share:
    """MX_bad of one update: of the upward movement sum pi [delta log pi]+, what falls on the bad set.

    Log-probabilities before and after, and bad (bool), all of one shape with actions last; exact for a table, an
    estimate for samples of the policy before if log_before is set to -log n there and log_after moved alike. pi is
    the policy before the update.
    """
    before, after = np.asarray(log_before, dtype=float), np.asarray(log_after, dtype=float)
    upward = np.exp(before) * np.maximum(after - before, 0.0)
    return Share(float((upward * np.asarray(bad)).sum()), float(upward.sum()))


def adverse_flow(gradient: ArrayLike, gold_gradient: ArrayLike) -> Share:
    """MX_flow of one update: |g| |g*| [-cos(g, g*)]+ over |g| |g*|, of two gradients of the same shape.

    0 while the step raises gold to first order, however wrong single samples were: an error without effect is no
    harm.
    """
    g, gold = np.ravel(np.asarray(gradient, dtype=float)), np.ravel(np.asarray(gold_gradient, dtype=float))
    return Share(max(0.0, -float(g @ gold)), float(np.linalg.norm(g) * np.linalg.norm(gold)))
