"""The robustness tax: what reaching a gold target costs one method, over what it costs another.

A run is a sequence of kept checkpoints with their cumulative costs (labels, policy tokens or seconds) and golds. A
run that does not reach the target within its budget is censored there, and is never left out: the mean over the
successes alone flatters a method that seldom arrives (science, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    `watched` (runs,) is the cost up to which it is known whether the run has arrived: the passage itself, what a run had
    spent that could have gone on, infinity for one that gave up or diverged and never will. None takes `cost`.
    """

    cost: Array
    reached: NDArray[np.bool_]
    spent: Array | None = None
    watched: Array | None = None


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
    return float(_spent(passage).sum()) / successes if successes else math.inf


def restricted_mean(passage: Passage, horizon: float) -> float:
    """Area under the Kaplan-Meier estimate of P(T > t) from 0 to `horizon`: E[min(T, horizon)].

    Kaplan and Meier 1958. Without censoring before the horizon it is the mean of min(T, horizon). A run censored
    at the cost of another's passage counts as at risk there. ValueError for a horizon beyond the largest cost up to
    which a run was watched, while some run is censored there: the curve is not known that far.
    """
    watched = _watched(passage)
    if horizon > watched.max() and not passage.reached[watched == watched.max()].all():
        raise ValueError(f"the curve is known up to {watched.max():g} only; lower the horizon {horizon:g}")
    return float(_restricted_means(passage, np.arange(len(watched))[None], horizon)[0])


def horizon_of(*passages: Passage) -> float:
    """The largest cost up to which the curves of all of them are known; the most spent where they are known for ever."""
    known = min(float(_watched(passage).max()) for passage in passages)
    return known if math.isfinite(known) else max(float(_spent(passage).max()) for passage in passages)


def _spent(passage: Passage) -> Array:
    return passage.cost if passage.spent is None else passage.spent


def _watched(passage: Passage) -> Array:
    return passage.cost if passage.watched is None else passage.watched


def _restricted_means(passage: Passage, rows: NDArray[np.int64], horizon: float) -> Array:
    """Restricted means (draws,) of runs drawn with replacement, rows (draws, runs). Beyond the last run of a draw its
    curve is drawn on flat."""
    watched, runs = _watched(passage), len(passage.cost)
    # Passages before censored runs of the same cost, which are at risk there.
    order = np.lexsort((~passage.reached, watched))
    counts = (rows[:, :, None] == np.arange(runs)).sum(1)[:, order].astype(float)
    at_risk = counts[:, ::-1].cumsum(1)[:, ::-1]
    passed = counts * passage.reached[order]
    survival = np.cumprod(1 - np.divide(passed, at_risk, out=np.zeros_like(passed), where=at_risk > 0), axis=1)
    times = np.minimum(watched[order], horizon)
    widths = np.diff(np.concatenate([[0.0], times, [horizon]]))
    return np.asarray((np.concatenate([np.ones((len(rows), 1)), survival], axis=1) * widths).sum(1))


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


def area_between(costs: ArrayLike, method: ArrayLike, reference: ArrayLike) -> Array:
    """Integral of J_method - J_reference over log cost, on a shared grid of costs (last axis), by trapezoids."""
    gap = np.asarray(method, dtype=float) - np.asarray(reference, dtype=float)
    return np.asarray(np.trapezoid(gap, np.log(np.asarray(costs, dtype=float)), axis=-1))


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
    with what it did contribute. 1 where nobody arrives. A run is at risk as long as it was watched. The runs are taken
    as independent, so that for runs paired by seed it is too cautious where the pairing matters.
    """
    excess, variance = 0.0, 0.0
    mine, theirs = _watched(one), _watched(other)
    for time in np.unique(np.concatenate([mine[one.reached], theirs[other.reached]])):
        risk_one, risk = int((mine >= time).sum()), int((mine >= time).sum() + (theirs >= time).sum())
        of_one = int((one.reached & (mine == time)).sum())
        passed = of_one + int((other.reached & (theirs == time)).sum())
        share = risk_one / risk
        excess += of_one - passed * share
        if risk > 1:
            variance += passed * share * (1 - share) * (risk - passed) / (risk - 1)
    return math.erfc(abs(excess) / math.sqrt(2 * variance)) if variance > 0 else 1.0


@dataclass(frozen=True)
class TaxIntervals:
    """Ratios of method to reference with paired bootstrap intervals; ends may be infinite where a draw has no success."""

    running_time: Interval
    restricted: Interval


def bootstrap_tax(method: Passage, reference: Passage, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> TaxIntervals:
    """Percentile intervals of the two ratios, seeds drawn with replacement, together for both methods.

    Restricted means are taken up to `horizon_of` the two. A draw in which the reference never arrives has no ratio of
    running times and is left out of its quantiles; one in which only the method never arrives counts as infinite.
    ValueError where the numbers of runs differ.
    """
    if len(method.cost) != len(reference.cost):
        raise ValueError(f"runs are paired by seed: {len(method.cost)} and {len(reference.cost)} do not match")
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

    horizon = horizon_of(method, reference)
    return TaxIntervals(ratio(_running_times), ratio(lambda passage, rows: _restricted_means(passage, rows, horizon)))


def _running_times(passage: Passage, rows: NDArray[np.int64]) -> Array:
    with np.errstate(divide="ignore"):
        return _spent(passage)[rows].sum(1) / passage.reached[rows].sum(1)
