"""Gold against distance d = sqrt(KL from the base policy): functional forms, their peaks and how well they predict.

Gao, Schulman and Hilton 2210.10760, section 1: gold is d (alpha - beta d) for best-of-n and d (alpha - beta log d)
for reinforcement learning, 0 at d = 0. Each form is fitted to either method here, beside a curve that saturates and
never falls, since a good fit says little unless another form fits worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Form = Literal["best_of_n", "rl", "saturating"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Curve:
    """A fitted form. Parameters: alpha and beta, or for the saturating form its ceiling A and scale s.

    residual: weighted sum of squares over the `n` points it was fitted to; `furthest`: the largest distance there.
    """

    form: Form
    first: float
    second: float
    residual: float
    n: int
    furthest: float

    def gold(self, distance: ArrayLike) -> Array:
        """Gold at distances above 0; same shape."""
        d = np.asarray(distance, dtype=float)
        if self.form == "saturating":
            return -self.first * np.expm1(-d / self.second)
        columns = _columns(d, self.form)
        return columns[..., 0] * self.first + columns[..., 1] * self.second

    @property
    def peak(self) -> tuple[float, float] | None:
        """Distance and gold of the interior peak; None without one, or with one beyond the furthest point.

        alpha / (2 beta) and alpha^2 / (4 beta) for best-of-n; exp(alpha / beta - 1) and beta times that for RL.
        """
        alpha, beta = self.first, self.second
        if self.form == "saturating" or beta <= 0 or (self.form == "best_of_n" and alpha <= 0):
            return None
        if self.form == "best_of_n":
            place = alpha / (2 * beta)
        else:
            exponent = alpha / beta - 1
            if exponent > math.log(self.furthest):
                return None
            place = math.exp(exponent)
        return (place, float(self.gold(place))) if place <= self.furthest else None

    @property
    def aicc(self) -> float:
        """n log(residual / n) + 2k + 2k(k + 1) / (n - k - 1), k = 3 with the variance; lower is better.

        Akaike's criterion with the correction for few points (Hurvich and Tsai 1989), up to a constant that curves
        fitted to the same points share. Infinite for n <= 4, minus infinity for an exact fit.
        """
        if self.n <= 4:
            return math.inf
        if self.residual <= 0:
            return -math.inf
        return self.n * math.log(self.residual / self.n) + 6 + 24 / (self.n - 4)


def fit(distance: ArrayLike, gold: ArrayLike, form: Form, *, weights: ArrayLike | None = None, least: float = 0.0) -> Curve:
    """Weighted least squares without an intercept over points (n,), those with distance above `least` only.

    The RL form is not meant for distances near 0: leave those out with `least`. The first two forms are linear in
    alpha and beta; the saturating one is linear in its ceiling, and its scale is searched from a hundredth to a
    hundred times the furthest distance. ValueError with fewer than two distinct distances left.
    """
    d, g = np.asarray(distance, dtype=float), np.asarray(gold, dtype=float)
    w = np.ones_like(d) if weights is None else np.asarray(weights, dtype=float)
    kept = d > max(least, 0.0)
    d, g, w = d[kept], g[kept], w[kept]
    if len(np.unique(d)) < 2:
        raise ValueError(f"a curve of two parameters needs two or more distinct distances above {least:g}")
    furthest = float(d.max())
    if form == "saturating":
        scale = _search(lambda log_s: _ceiling(d, g, w, math.exp(log_s))[1], math.log(furthest / 100), math.log(furthest * 100))
        first, second = _ceiling(d, g, w, math.exp(scale))[0], math.exp(scale)
    else:
        root = np.sqrt(w)
        first, second = np.linalg.lstsq(_columns(d, form) * root[:, None], g * root, rcond=None)[0]
    curve = Curve(form, float(first), float(second), 0.0, len(d), furthest)
    residual = float((w * (g - curve.gold(d)) ** 2).sum())
    return Curve(form, curve.first, curve.second, residual, len(d), furthest)


def extrapolation_error(distance: ArrayLike, gold: ArrayLike, form: Form, *, share: float = 0.6, least: float = 0.0) -> float:
    """Root mean square error of predicting the points beyond the `share` quantile of d from those up to it.

    In units of gold. ValueError where either side has too few points.
    """
    d, g = np.asarray(distance, dtype=float), np.asarray(gold, dtype=float)
    near = d <= np.quantile(d, share)
    if near.all():
        raise ValueError(f"no points lie beyond the {share:g} quantile of the distances")
    curve = fit(d[near], g[near], form, least=least)
    return float(np.sqrt(((g[~near] - curve.gold(d[~near])) ** 2).mean()))


def _columns(d: Array, form: Form) -> Array:
    return np.stack([d, -d * (d if form == "best_of_n" else np.log(d))], -1)


def _ceiling(d: Array, g: Array, w: Array, scale: float) -> tuple[float, float]:
    """Best ceiling for a scale, and the residual it leaves."""
    shape = -np.expm1(-d / scale)
    ceiling = float((w * shape * g).sum() / (w * shape**2).sum())
    return ceiling, float((w * (g - ceiling * shape) ** 2).sum())


def _search(cost, low: float, high: float) -> float:  # type: ignore[no-untyped-def]
    """Minimum of `cost` on [low, high]: a grid, refined around its best point four times."""
    for _ in range(5):
        grid = np.linspace(low, high, 60)
        best = int(np.argmin([cost(float(x)) for x in grid]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 59)])
    return (low + high) / 2
