"""Aggregates over seeds with intervals that respect how runs and prompts are nested and paired."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlback.records import Interval

Array = NDArray[np.float64]


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of all values (Agarwal et al. 2108.13264, section 4.3).

    A quarter of the total weight is cut from each end; where n is no multiple of four, the values at the cut keep the
    fraction of their weight that lies inside. ValueError without values.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=None)
    n = len(ordered)
    if n == 0:
        raise ValueError("the interquartile mean of no values is not defined")
    rank = np.arange(n)
    weight = np.clip(np.minimum(rank + 1, 0.75 * n) - np.maximum(rank, 0.25 * n), 0, 1)
    return float((weight * ordered).sum() / weight.sum())


def probability_of_improvement(method: ArrayLike, reference: ArrayLike) -> float:
    """P(a run of `method` beats one of `reference`) over all pairs of runs, ties one half (Agarwal et al., 4.3)."""
    a, b = np.asarray(method, dtype=float)[:, None], np.asarray(reference, dtype=float)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def paired_bootstrap(
    method: ArrayLike,
    reference: ArrayLike,
    *,
    statistic: Callable[[Array], float] = interquartile_mean,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of the differences, resampling seeds, then prompts within each seed.

    `method` and `reference` are (seeds,) or (seeds, prompts), paired in both axes; a seed's difference is its
    mean over prompts. Seeds are drawn together for both methods, and so are prompts: the pairing (same initial weights,
    same prompts) removes what they share. ValueError where shapes differ or there are fewer than two seeds.
    """
    a, b = np.asarray(method, dtype=float), np.asarray(reference, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"runs are paired by seed and prompt: shapes {a.shape} and {b.shape} do not match")
    difference = (a - b).reshape(len(a), -1)
    seeds, prompts = difference.shape
    if seeds < 2:
        raise ValueError("a bootstrap over seeds needs two or more")
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(seeds, size=seeds)
        if prompts == 1:
            found[i] = statistic(difference[chosen, 0])
        else:
            within = rng.integers(prompts, size=(seeds, prompts))
            found[i] = statistic(difference[chosen[:, None], within].mean(1))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(difference.mean(1)), float(low), float(high), seeds)


def apart_bootstrap(
    method: ArrayLike,
    reference: ArrayLike,
    *,
    statistic: Callable[[Array], float] = interquartile_mean,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic of `method` less that of `reference`, (seeds,) each, with a percentile interval over paired seeds.

    Unlike `paired_bootstrap`, which takes the statistic of the differences: the two agree for the mean and part where a
    seed is in the middle of one side and at the edge of the other. ValueError as there.
    """
    a, b = np.asarray(method, dtype=float), np.asarray(reference, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"runs are paired by seed: shapes {a.shape} and {b.shape} do not match")
    if len(a) < 2:
        raise ValueError("a bootstrap over seeds needs two or more")
    chosen = np.random.default_rng(seed).integers(len(a), size=(draws, len(a)))
    found = [statistic(a[rows]) - statistic(b[rows]) for rows in chosen]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(a) - statistic(b), float(low), float(high), len(a))


def ratio_bootstrap(
    part: ArrayLike, whole: ArrayLike, *, reference: tuple[ArrayLike, ArrayLike] | None = None, draws: int = 2000,
    level: float = 0.95, seed: int = 0,
) -> Interval:  # fmt: skip
    """Sum of `part` over sum of `whole`, (seeds,) each, with a percentile interval over seeds drawn with replacement.

    For shares of events that come several to a seed and are not independent within one. `reference`: the part and whole
    of another method on the same seeds, whose share is taken off; seeds are drawn for both together. Draws without any
    of a whole are left out; nan where there is none at all. ValueError where the lengths differ or there are no seeds.
    """
    sides = [np.asarray(side, dtype=float) for side in (part, whole, *(reference or ()))]
    n = len(sides[0])
    if not n or any(side.shape != (n,) for side in sides):
        raise ValueError(f"a share needs both sums for every seed: lengths {[len(s) for s in sides]} do not match")
    chosen = np.random.default_rng(seed).integers(n, size=(draws, n))

    def share(rows: NDArray[np.int64]) -> Array:
        sums = [side[rows].sum(1) for side in sides]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = [np.where(b > 0, a / b, np.nan) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        return shares[0] - shares[1] if reference else shares[0]

    drawn = share(chosen)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (np.nan, np.nan)
    return Interval(float(share(np.arange(n)[None])[0]), float(low), float(high), n)
