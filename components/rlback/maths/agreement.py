"""How far annotators agree beyond chance. Pure functions on ratings; standard library only.

A unit (a comparison) is the list of the ratings it was given, one an annotator at most. Units with fewer than two
ratings say nothing about agreement and are left out, as in Krippendorff's method.
"""

from __future__ import annotations

import random
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


def alpha(units: Sequence[Sequence[Any]], level: Level, order: Sequence[Any] = ()) -> Agreement:
    """Krippendorff's alpha (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011): 1 - D_o / D_e.

    With n_ck the coincidences of values c and k (each unit of m ratings gives its ordered pairs a weight of
    1/(m-1)), n_c their sums and n the sum of all:

        D_o = sum_ck n_ck d(c,k)^2 / n          D_e = sum_ck n_c n_k d(c,k)^2 / (n (n-1))

    d is 0 or 1 for nominal values; for ordinal ones d(c,k) is the sum of n_g for g from c to k, less half of n_c and
    n_k. `order` lists ordinal values from lowest to highest.

    Raises:
        ValueError: a rating of an ordinal scale is not in `order`.
    """
    paired = [list(unit) for unit in units if len(unit) >= 2]
    n = sum(len(unit) for unit in paired)
    if not paired:
        return Agreement(None, 0, 0, "no comparison has labels of two annotators")
    totals = Counter(value for unit in paired for value in unit)
    distance = _nominal if level == "nominal" else _ordinal(totals, order)
    if len(totals) == 1:
        return Agreement(None, n, len(paired), "there is one answer throughout, so that agreement cannot be told from chance")
    observed = 0.0
    for unit in paired:
        counts = Counter(unit)
        pairs = sum(counts[c] * counts[k] * distance(c, k) for c in counts for k in counts if c != k)
        observed += pairs / (len(unit) - 1)
    expected = sum(totals[c] * totals[k] * distance(c, k) for c in totals for k in totals if c != k)
    return Agreement(1 - (n - 1) * observed / expected, n, len(paired))


def percent_agreement(units: Sequence[Sequence[Any]]) -> Agreement:
    """Share of pairs of annotators on the same unit who gave the same rating; chance is not taken out."""
    same = pairs = 0
    paired = [unit for unit in units if len(unit) >= 2]
    for unit in paired:
        pairs += len(unit) * (len(unit) - 1)
        same += sum(count * (count - 1) for count in Counter(unit).values())
    n = sum(len(unit) for unit in paired)
    if not pairs:
        return Agreement(None, 0, 0, "no comparison has labels of two annotators")
    return Agreement(same / pairs, n, len(paired))


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


def with_interval(
    units: Sequence[Sequence[Any]], statistic: Callable[[Sequence[Sequence[Any]]], Agreement], seed: int,
    resamples: int = RESAMPLES,
) -> Agreement:
    """A statistic with its percentile bootstrap interval: units are drawn anew with replacement.

    Draws in which it is not defined are left out; where they are more than half there is no interval.
    """
    found = statistic(units)
    paired = [unit for unit in units if len(unit) >= 2]
    if found.value is None or len(paired) < 2:
        return found
    rng = random.Random(seed)
    drawn = []
    for _ in range(resamples):
        value = statistic(rng.choices(paired, k=len(paired))).value
        if value is not None:
            drawn.append(value)
    if len(drawn) <= resamples / 2:
        return found
    drawn.sort()
    return Agreement(
        found.value, found.n, found.units, found.reason, drawn[int(0.025 * len(drawn))], drawn[-1 - int(0.025 * len(drawn))]
    )


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
