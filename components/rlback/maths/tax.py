"""The robustness tax: what reaching a gold target costs one method, over what it costs another.

A run is a sequence of kept checkpoints with their cumulative costs (labels, policy tokens or seconds) and golds. A
run that does not reach the target within its budget is censored there, and is never left out: the mean over the
successes alone flatters a method that seldom arrives (science, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from rlback.records import Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Passage:
    """Cost (runs,) at which each run first has the target, or its budget where it never does; `reached` (runs,).

    `spent` (runs,) is what the run had cost when it arrived or ended. A run that ends early without the target
    never reaches it, whatever the budget, but has spent no more than it did. Where it is None, `cost` was spent.
    """

    cost: Array
    reached: NDArray[np.bool_]
    spent: Array | None = None


def first_passage(
    costs: ArrayLike,
    golds: ArrayLike,
    target: float,
    budget: float,
    *,
    sustained: bool = False,
    exposure: ArrayLike | None = None,
    ceiling: float = math.inf,
) -> Passage:
    """First-passage cost T(target) of each run from costs and golds, (runs, checkpoints) each.

    `costs` is cumulative and does not fall; pad short runs with infinite cost. `sustained` asks that every later
    kept checkpoint within the budget holds the target too. `exposure` (runs, checkpoints), the misreward exposure
    of the kept updates so far, makes it the iso-exposure cost: only checkpoints at or below `ceiling` count. What
    lies beyond `budget` is not looked at. ValueError for costs that fall.
    """
    costs, golds = np.asarray(costs, dtype=float), np.asarray(golds, dtype=float)
    if (costs[:, 1:] < costs[:, :-1]).any():
        raise ValueError("costs are cumulative and may not fall along a run")
    within = costs <= budget
    holds = golds >= target
    if exposure is not None:
        holds = holds & (np.asarray(exposure, dtype=float) <= ceiling)
    if sustained:
        holds = np.logical_and.accumulate((holds | ~within)[:, ::-1], axis=1)[:, ::-1]
    holds = holds & within
    reached = holds.any(1)
    first = costs[np.arange(len(costs)), holds.argmax(1)]
    ended = np.where(within, costs, -math.inf).max(1)
    return Passage(np.where(reached, first, budget), reached, np.where(reached, first, np.maximum(ended, 0.0)))


def expected_running_time(passage: Passage) -> float:
    """All cost spent, successes and failures, over the number of successes; infinite without a success.

    What a target costs in expectation when a failed run is followed by another (Hansen et al. 1603.08785, the
    COCO platform). A failed run is charged what it spent, not the budget it might have had.
    """
    successes = int(passage.reached.sum())
    spent = passage.cost if passage.spent is None else passage.spent
    return float(spent.sum()) / successes if successes else math.inf


def restricted_mean(passage: Passage, horizon: float) -> float:
    """Area under the Kaplan-Meier estimate of P(T > t) from 0 to `horizon`: E[min(T, horizon)].

    Kaplan and Meier 1958. Without censoring before the horizon it is the mean of min(T, horizon). A run censored
    at the cost of another's passage counts as at risk there. ValueError for a horizon beyond the largest observed
    cost while some run is censored there: the curve is not known that far.
    """
    if horizon > passage.cost.max() and not passage.reached[passage.cost == passage.cost.max()].all():
        raise ValueError(f"the curve is known up to {passage.cost.max():g} only; lower the horizon {horizon:g}")
    area, survival, last = 0.0, 1.0, 0.0
    for time in np.unique(passage.cost[passage.reached]):
        if time > horizon:
            break
        area += survival * (time - last)
        at_risk = int((passage.cost >= time).sum())
        survival *= 1 - int((passage.reached & (passage.cost == time)).sum()) / at_risk
        last = float(time)
    return area + survival * (horizon - last)


@dataclass(frozen=True)
class Tax:
    """Cost of a method over that of its reference, by two estimators that count failed runs, and who arrived.

    running_time and restricted are ratios, above 1 where the method is dearer; nan where neither is defined.
    paired is the geometric mean of the ratios over seeds on which both arrive, of which there are `pairs`.
    """

    running_time: float
    restricted: float
    paired: float
    pairs: int
    successes: tuple[int, int]
    runs: int


def tax(method: Passage, reference: Passage, budget: float) -> Tax:
    """The tax of `method` against `reference`, whose runs are paired by position (the same seeds).

    ValueError where the numbers of runs differ.
    """
    if len(method.cost) != len(reference.cost):
        raise ValueError(f"runs are paired by seed: {len(method.cost)} and {len(reference.cost)} do not match")
    both = method.reached & reference.reached
    logs = np.log(method.cost[both] / reference.cost[both])
    return Tax(
        _ratio(expected_running_time(method), expected_running_time(reference)),
        _ratio(restricted_mean(method, budget), restricted_mean(reference, budget)),
        float(np.exp(logs.mean())) if both.any() else math.nan,
        int(both.sum()),
        (int(method.reached.sum()), int(reference.reached.sum())),
        len(method.cost),
    )


#: What a label count factors into: attempts' own labels, attempts, commits, and one plus the gate's share.
FACTORS = ("labels_per_attempt", "attempts_per_commit", "commits", "gate")


def label_factors(*, training_labels: float, gate_labels: float, attempts: int, commits: int) -> dict[str, float]:
    """Factors whose product is the labels spent: training + gate. ValueError unless all but the gate is positive."""
    if min(training_labels, attempts, commits) <= 0 or gate_labels < 0:
        raise ValueError("the decomposition needs training labels, attempts and commits above 0")
    factors = (training_labels / attempts, attempts / commits, float(commits), 1 + gate_labels / training_labels)
    return dict(zip(FACTORS, factors, strict=True))


def decompose(method: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Logarithm of each factor's ratio; they add up to log(labels of method / labels of reference) exactly."""
    return {name: math.log(method[name] / reference[name]) for name in FACTORS}


def area_between(labels: Sequence[float], method: ArrayLike, reference: ArrayLike) -> float:
    """Integral of J_reference - J_method over log labels, on a shared grid of labels (trapezoids)."""
    gap = np.asarray(reference, dtype=float) - np.asarray(method, dtype=float)
    return float(np.trapezoid(gap, np.log(np.asarray(labels, dtype=float))))


def clopper_pearson(successes: int, runs: int, level: float = 0.95) -> Interval:
    """Share of runs that arrive, with its exact binomial interval (Clopper and Pearson 1934).

    ValueError unless 0 <= successes <= runs and runs is at least 1.
    """
    if runs < 1 or not 0 <= successes <= runs:
        raise ValueError(f"a success rate needs 0 <= successes <= runs and runs >= 1, got {successes} of {runs}")
    tail = (1 - level) / 2
    low = float(betaincinv(successes, runs - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, runs - successes, 1 - tail)) if successes < runs else 1.0
    return Interval(successes / runs, low, high, runs)


def log_rank(one: Passage, other: Passage) -> float:
    """p-value, two-sided, of equal first-passage distributions (Mantel 1966; normal approximation).

    At each passage the method's share of those at risk is what it should contribute; the test compares the sum
    with what it did contribute. 1 where nobody arrives. The runs are taken as independent, so that for runs paired
    by seed it is too cautious where the pairing matters.
    """
    excess, variance = 0.0, 0.0
    for time in np.unique(np.concatenate([one.cost[one.reached], other.cost[other.reached]])):
        risk_one, risk = int((one.cost >= time).sum()), int((one.cost >= time).sum() + (other.cost >= time).sum())
        mine = int((one.reached & (one.cost == time)).sum())
        passed = mine + int((other.reached & (other.cost == time)).sum())
        share = risk_one / risk
        excess += mine - passed * share
        if risk > 1:
            variance += passed * share * (1 - share) * (risk - passed) / (risk - 1)
    return math.erfc(abs(excess) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def _ratio(above: float, below: float) -> float:
    if math.isinf(above) and math.isinf(below):
        return math.nan
    return above / below if below else math.nan


@dataclass(frozen=True)
class TaxIntervals:
    """Ratios of method to reference with paired bootstrap intervals; ends may be infinite where a draw has no success."""

    running_time: Interval
    restricted: Interval


def bootstrap_tax(
    method: Passage, reference: Passage, budget: float, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> TaxIntervals:
    """Percentile intervals of the two ratios, seeds drawn with replacement, together for both methods.

    Every run is followed to `budget`, so the restricted mean is the mean of min(T, budget). A draw in which the
    reference never arrives has no ratio of running times and is left out of its quantiles; one in which only the method
    never arrives counts as infinite. ValueError where the numbers of runs differ or a cost lies beyond the budget.
    """
    if len(method.cost) != len(reference.cost):
        raise ValueError(f"runs are paired by seed: {len(method.cost)} and {len(reference.cost)} do not match")
    if max(method.cost.max(), reference.cost.max()) > budget:
        raise ValueError(f"a cost lies beyond the budget {budget:g}")
    n = len(method.cost)
    chosen = np.random.default_rng(seed).integers(n, size=(draws, n))

    def ends(values: Array) -> tuple[float, float]:
        values = np.sort(values[~np.isnan(values)])
        if not len(values):
            return math.nan, math.nan
        at = [round((1 - level) / 2 * (len(values) - 1)), round((1 + level) / 2 * (len(values) - 1))]
        return float(values[at[0]]), float(values[at[1]])

    def ratio(statistic) -> Interval:  # type: ignore[no-untyped-def]
        every = np.arange(n)[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = statistic(method, chosen) / statistic(reference, chosen)
            value = statistic(method, every) / statistic(reference, every)
        low, high = ends(np.where(np.isinf(statistic(reference, chosen)), np.nan, drawn))
        known = not np.isinf(statistic(reference, every)[0])
        return Interval(float(value[0]) if known else math.nan, low, high, n)

    return TaxIntervals(ratio(_running_times), ratio(lambda passage, rows: passage.cost[rows].mean(1)))


def _running_times(passage: Passage, rows: NDArray[np.int64]) -> Array:
    spent = passage.cost if passage.spent is None else passage.spent
    with np.errstate(divide="ignore"):
        return spent[rows].sum(1) / passage.reached[rows].sum(1)
