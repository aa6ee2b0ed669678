"""How far annotators agree beyond chance. Pure functions on ratings; standard library only but for bootstrap draws.

A unit (a comparison) is the list of the ratings it was given, one an annotator at most. Units with fewer than two
ratings say nothing about agreement and are left out, as in Krippendorff's method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["nominal", "ordinal"]
RESAMPLES = 500


@dataclass(frozen=True)
class Agreement:
    """A coefficient over `units` units and `n` ratings; `value` None with the `reason` where it is not defined.

    `low` and `high` bound a 95 % percentile bootstrap interval over units, None where it cannot be had.
    """

    value: float | None
    n: int
    units: int
    reason: str = ""
    low: float | None = None
    high: float | None = None


def alpha(
    units: Sequence[Sequence[Any]], level: Level, order: Sequence[Any] = (), weights: Sequence[int] | None = None
) -> Agreement:
    """Krippendorff's alpha (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011): 1 - D_o / D_e.

    With n_ck the coincidences of values c and k (each unit of m ratings gives its ordered pairs a weight of
    1/(m-1)), n_c their sums and n the sum of all:

        D_o = sum_ck n_ck d(c,k)^2 / n          D_e = sum_ck n_c n_k d(c,k)^2 / (n (n-1))

    d is 0 or 1 for nominal values; for ordinal ones d(c,k) is the sum of n_g for g from c to k, less half of n_c and
    n_k. `order` lists ordinal values from lowest to highest. `weights` says how often each unit is there.

    Raises:
        ValueError: a rating of an ordinal scale is not in `order`.
    """
    paired = _paired(units, weights)
    n = sum(len(unit) * times for unit, times in paired)
    many = sum(times for _, times in paired)
    if not many:
        return Agreement(None, 0, 0, "no comparison has labels of two annotators")
    totals: Counter[Any] = Counter()
    for unit, times in paired:
        for value in unit:
            totals[value] += times
    distance = _nominal if level == "nominal" else _ordinal(totals, order)
    if len(totals) == 1:
        return Agreement(None, n, many, "there is one answer throughout, so that agreement cannot be told from chance")
    observed = 0.0
    for unit, times in paired:
        counts = Counter(unit)
        pairs = sum(counts[c] * counts[k] * distance(c, k) for c in counts for k in counts if c != k)
        observed += times * pairs / (len(unit) - 1)
    expected = sum(totals[c] * totals[k] * distance(c, k) for c in totals for k in totals if c != k)
    return Agreement(1 - (n - 1) * observed / expected, n, many)


def percent_agreement(units: Sequence[Sequence[Any]], weights: Sequence[int] | None = None) -> Agreement:
    """Share of pairs of annotators on the same unit who gave the same rating; chance is not taken out."""
    same = pairs = 0
    paired = _paired(units, weights)
    for unit, times in paired:
        pairs += times * len(unit) * (len(unit) - 1)
        same += times * sum(count * (count - 1) for count in Counter(unit).values())
    n = sum(len(unit) * times for unit, times in paired)
    if not pairs:
        return Agreement(None, 0, 0, "no comparison has labels of two annotators")
    return Agreement(same / pairs, n, sum(times for _, times in paired))


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Cohen's kappa of two annotators on the same units, in order (Cohen 1960): (p_o - p_e) / (1 - p_e).

    Raises:
        ValueError: the two sequences are not of one length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} ratings beside {len(second)}")
    units = len(first)
    if not units:
        return Agreement(None, 0, 0, "the two labelled no comparison both")
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / units
    ours, theirs = Counter(first), Counter(second)
    expected = sum(ours[value] * theirs[value] for value in ours) / units**2
    if expected == 1:
        return Agreement(None, 2 * units, units, "both gave one and the same answer throughout")
    return Agreement((observed - expected) / (1 - expected), 2 * units, units)


def kappa_of(units: Sequence[Sequence[Any]], weights: Sequence[int] | None = None) -> Agreement:
    """`kappa` of units of two ratings each, the first annotator's first."""
    drawn = [unit for unit, times in _paired(units, weights) for _ in range(times)]
    return kappa([unit[0] for unit in drawn], [unit[1] for unit in drawn])


def with_interval(
    units: Sequence[Sequence[Any]], statistic: Callable[[Sequence[Sequence[Any]], Sequence[int] | None], Agreement], seed: int,
    resamples: int = RESAMPLES,
) -> Agreement:
    """A statistic with its percentile bootstrap interval: units are drawn anew with replacement.

    Units rated alike are drawn together, by how many of them there are: as many draws, and no slower for many units.
    Draws in which it is not defined are left out; where they are more than half there is no interval.
    """
    found = statistic(units, None)
    alike = Counter(tuple(unit) for unit in units if len(unit) >= 2)
    many = sum(alike.values())
    if found.value is None or many < 2:
        return found
    import numpy as np

    shares = np.array(list(alike.values()), dtype=float) / many
    patterns = list(alike)
    drawn = []
    for weights in np.random.default_rng(seed).multinomial(many, shares, size=resamples).tolist():
        value = statistic(patterns, weights).value
        if value is not None:
            drawn.append(value)
    if len(drawn) <= resamples / 2:
        return found
    drawn.sort()
    return Agreement(
        found.value, found.n, found.units, found.reason, drawn[int(0.025 * len(drawn))], drawn[-1 - int(0.025 * len(drawn))]
    )


def _paired(units: Sequence[Sequence[Any]], weights: Sequence[int] | None) -> list[tuple[Sequence[Any], int]]:
    """Units of two ratings or more, with how often each is there."""
    times = weights if weights is not None else [1] * len(units)
    return [(unit, many) for unit, many in zip(units, times, strict=True) if many and len(unit) >= 2]


def _nominal(c: Any, k: Any) -> float:
    return float(c != k)


def _ordinal(totals: Counter[Any], order: Sequence[Any]) -> Callable[[Any, Any], float]:
    place = {value: position for position, value in enumerate(order)}
    if strange := [value for value in totals if value not in place]:
        raise ValueError(f"{strange[0]!r} is not on the scale {list(order)}")
    counts = [totals.get(value, 0) for value in order]

    def distance(c: Any, k: Any) -> float:
        low, high = sorted((place[c], place[k]))
        return float((sum(counts[low : high + 1]) - (counts[low] + counts[high]) / 2) ** 2)

    return distance
