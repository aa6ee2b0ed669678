"""First passage, censoring and the decomposition of the tax, against worked cases and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlback.maths.tax import (
    Passage,
    _restricted_means,
    area_between,
    bootstrap_tax,
    clopper_pearson,
    decompose,
    expected_running_time,
    first_passage,
    horizon_of,
    label_factors,
    log_rank,
    restricted_mean,
)

COSTS = [[10, 20, 30, 40]] * 3
#: The first passes 1 and falls again, the second passes late, the third never.
GOLDS = [[0.5, 1.2, 0.8, 1.1], [0.0, 0.2, 1.0, 1.3], [0.1, 0.2, 0.3, 0.4]]


def passage(cost: list[float], reached: list[bool]) -> Passage:
    return Passage(np.array(cost, dtype=float), np.array(reached))


def test_first_passage_and_the_sustained_one() -> None:
    first = first_passage(COSTS, GOLDS, 1.0, 40)
    assert (first.cost.tolist(), first.reached.tolist()) == ([20, 30, 40], [True, True, False])
    held = first_passage(COSTS, GOLDS, 1.0, 40, sustained=True)
    assert (held.cost.tolist(), held.reached.tolist()) == ([40, 30, 40], [True, True, False])


def test_a_budget_censors_and_hides_what_comes_later() -> None:
    short = first_passage(COSTS, GOLDS, 1.0, 25)
    assert (short.cost.tolist(), short.reached.tolist()) == ([20, 25, 25], [True, False, False])
    # The fall of the first run at cost 30 lies beyond the budget.
    assert first_passage(COSTS, GOLDS, 1.0, 25, sustained=True).cost.tolist() == [20, 25, 25]
    assert first_passage([[10, math.inf]], [[0, 9]], 1.0, 25).reached.tolist() == [False]


def test_iso_exposure_counts_clean_checkpoints_only() -> None:
    exposure = [[0.1, 0.3, 0.3, 0.2]] * 3
    clean = first_passage(COSTS, GOLDS, 1.0, 40, exposure=exposure, ceiling=0.2)
    assert (clean.cost.tolist(), clean.reached.tolist()) == ([40, 40, 40], [True, True, False])


def test_falling_costs_are_refused() -> None:
    with pytest.raises(ValueError, match="cumulative"):
        first_passage([[2, 1]], [[0, 0]], 1.0, 5)


def test_expected_running_time_charges_failures() -> None:
    assert expected_running_time(passage([20, 30, 40], [True, True, False])) == 45
    assert expected_running_time(passage([40], [False])) == math.inf


def test_expected_running_time_charges_a_short_failure_what_it_spent() -> None:
    """One of four runs of 60 labels arrives: 240 labels a success, though each could have had 660.

    For the restricted mean a run that is over without the target still has all of the budget before it.
    """
    short = first_passage([[60, math.inf]] * 4, [[1.0, 0], [0, 0], [0, 0], [0, 0]], 1.0, 660)
    assert short.cost.tolist() == [60, 660, 660, 660]
    assert expected_running_time(short) == 240
    assert restricted_mean(short, 660) == (60 + 3 * 660) / 4


def test_restricted_mean_without_censoring_is_the_mean() -> None:
    cost = [3.0, 8.0, 8.0, 20.0]
    assert math.isclose(restricted_mean(passage(cost, [True] * 4), 15), (3 + 8 + 8 + 15) / 4)


def test_restricted_mean_of_a_worked_case() -> None:
    # Passages at 1 (of 4 at risk) and 3 (of 2), one run censored at 2 and one at 4: S is 1, 3/4, 3/8.
    assert math.isclose(restricted_mean(passage([1, 2, 3, 4], [True, False, True, False]), 4), 1 + 2 * 3 / 4 + 3 / 8)


def test_restricted_mean_recovers_an_exponential_from_censored_runs() -> None:
    rng = np.random.default_rng(0)
    true, stop = rng.exponential(1.0, 20_000), rng.exponential(2.0, 20_000)
    seen = Passage(np.minimum(true, stop), true <= stop)
    assert abs(restricted_mean(seen, 1.5) - (1 - math.exp(-1.5))) < 0.02


def test_restricted_mean_is_unknown_beyond_the_last_censored_run() -> None:
    with pytest.raises(ValueError, match="known up to 4"):
        restricted_mean(passage([1, 4], [True, False]), 5)


def test_a_method_that_seldom_arrives_is_not_cheap() -> None:
    """Cheap when it arrives, but it arrives once in four: its running time counts the three that ended at 100."""
    rare = passage([10, 100, 100, 100], [True, False, False, False])
    steady = passage([40] * 4, [True] * 4)
    found = bootstrap_tax(rare, steady)
    assert math.isclose(found.running_time.value, 310 / 40)
    # Up to 40, where the last of the steady ones arrives: (10 + 3 * 40) / 4 against 40.
    assert math.isclose(found.restricted.value, 32.5 / 40)
    nobody = passage([100] * 4, [False] * 4)
    assert math.isnan(bootstrap_tax(nobody, nobody).running_time.value)
    with pytest.raises(ValueError, match="paired"):
        bootstrap_tax(rare, passage([1], [True]))


def test_who_gave_up_never_arrives_and_who_could_have_gone_on_is_censored() -> None:
    """Two runs over at 20 of 40, one arrives at 30: S falls to 0 there if they could have gone on, to 2/3 if not."""
    cost, reached = np.array([40.0, 40.0, 30.0]), np.array([False, False, True])
    spent = np.array([20.0, 20.0, 30.0])
    open_ended = Passage(cost, reached, spent, watched=spent)
    given_up = Passage(cost, reached, spent, watched=np.array([math.inf, math.inf, 30.0]))
    assert (restricted_mean(open_ended, 40), restricted_mean(given_up, 40)) == (30, pytest.approx(30 + 10 * 2 / 3))
    assert (horizon_of(open_ended, given_up), horizon_of(given_up, given_up)) == (30, 30)


def test_restricted_means_of_draws_are_those_of_the_runs_drawn() -> None:
    """The bootstrap's way with counts equals the estimate on the drawn runs themselves, ties and censoring included."""
    rng = np.random.default_rng(4)
    cost, reached = rng.integers(1, 6, 12).astype(float), rng.random(12) < 0.6
    rows = rng.integers(12, size=(40, 12))
    for draw in rows:
        alone = Passage(cost[draw], reached[draw])
        expected = restricted_mean(alone, horizon_of(alone)) if reached[draw].any() else horizon_of(alone)
        together = _restricted_means(Passage(cost, reached), draw[None], horizon_of(alone))
        assert together[0] == pytest.approx(expected)


def test_intervals_of_the_tax_cover_it() -> None:
    """Exponential passages of means 2 and 1, censored at 4: in 95 of 100 studies about the interval holds the ratio."""
    rng, held = np.random.default_rng(1), 0
    truth = 2 * (1 - math.exp(-2)) / (1 - math.exp(-4))
    for study in range(100):
        sides = [rng.exponential(mean, 60) for mean in (2.0, 1.0)]
        slow, quick = (Passage(np.minimum(side, 4.0), side < 4.0) for side in sides)
        found = bootstrap_tax(slow, quick, draws=200, seed=study).restricted
        held += found.low <= truth <= found.high
    assert 88 <= held <= 100


def test_decomposition_adds_up_to_the_log_tax() -> None:
    gated = label_factors(training_labels=900, gate_labels=585, attempts=15, commits=10)
    plain = label_factors(training_labels=600, gate_labels=0, attempts=10, commits=10)
    parts = decompose(gated, plain)
    assert math.isclose(math.prod(gated.values()), 1485)
    assert math.isclose(sum(parts.values()), math.log(1485 / 600))
    assert parts["labels_per_attempt"] == 0
    with pytest.raises(ValueError, match="above 0"):
        label_factors(training_labels=10, gate_labels=0, attempts=1, commits=0)


def test_area_between_constant_curves() -> None:
    assert math.isclose(area_between([1, 10, 100], [0.75] * 3, [0.5] * 3), 0.25 * math.log(100))
    assert area_between([[1, 10], [1, 100]], [[1, 1], [0, 2]], [[0, 0], [0, 0]]) == pytest.approx(np.log([10, 100]))


def test_success_rate_bounds_have_the_tails_asked_for() -> None:
    found = clopper_pearson(3, 10)

    def tail(p: float, counts: range) -> float:
        return sum(math.comb(10, k) * p**k * (1 - p) ** (10 - k) for k in counts)

    assert math.isclose(tail(found.low, range(3, 11)), 0.025)
    assert math.isclose(tail(found.high, range(4)), 0.025)
    assert math.isclose(clopper_pearson(0, 10).high, 1 - 0.025 ** (1 / 10))
    assert clopper_pearson(10, 10).high == 1
    with pytest.raises(ValueError, match="11 of 10"):
        clopper_pearson(11, 10)


def test_log_rank_of_a_worked_case_and_of_extremes() -> None:
    # One passes at 1, the other at 2: excess 1 - 1/2, variance 1/4 (at time 2 only the other is at risk), so z = 1.
    assert math.isclose(log_rank(passage([1], [True]), passage([2], [True])), math.erfc(1 / math.sqrt(2)))
    early, late = passage(list(range(1, 21)), [True] * 20), passage([50.0] * 20, [False] * 20)
    assert log_rank(early, late) < 1e-6
    assert log_rank(early, early) == 1
    assert log_rank(late, late) == 1
