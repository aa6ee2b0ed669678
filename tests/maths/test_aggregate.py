"""Aggregates over seeds: exact small cases, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.maths.aggregate import (
    apart_bootstrap,
    interquartile_mean,
    paired_bootstrap,
    probability_of_improvement,
    ratio_bootstrap,
)


def test_interquartile_mean() -> None:
    assert interquartile_mean([100, 1, 2, -50]) == 1.5
    # Of six values, a weight of 1.5 goes at each end: half of the second, all of the third and fourth, half of the fifth.
    assert interquartile_mean([0, 1, 2, 3, 10, 99]) == (0.5 * 1 + 2 + 3 + 0.5 * 10) / 3
    assert interquartile_mean([7]) == 7
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_probability_of_improvement_counts_ties_by_half() -> None:
    assert probability_of_improvement([1, 3], [1, 2]) == (0.5 + 0 + 1 + 1) / 4


def test_pairing_removes_what_the_seeds_share() -> None:
    rng = np.random.default_rng(0)
    shared = 10 * rng.standard_normal(30)
    found = paired_bootstrap(shared + 1 + 0.1 * rng.standard_normal(30), shared, draws=300)
    assert found.low < 1 < found.high
    assert found.high - found.low < 0.3


def test_interval_covers_under_both_levels_of_noise() -> None:
    """Difference 0 with noise by seed and by prompt; of 100 intervals at 90 %, fewer than 75 is beyond five errors."""
    rng, covered = np.random.default_rng(1), 0
    for trial in range(100):
        gap = rng.standard_normal((30, 1)) + rng.standard_normal((30, 8))
        found = paired_bootstrap(gap, np.zeros_like(gap), statistic=np.mean, draws=150, level=0.9, seed=trial)
        covered += found.low <= 0 <= found.high
    assert covered >= 75


def test_prompts_alone_widen_the_interval() -> None:
    """Seeds with the same mean still have an interval, from their prompts."""
    gap = np.tile([-1.0, 1.0], (10, 6))
    found = paired_bootstrap(gap, np.zeros_like(gap), draws=200)
    assert found.low < 0 < found.high


def test_a_statistic_of_each_side_is_drawn_in_pairs() -> None:
    """With the mean it is the mean of differences, to the same interval; what the seeds share is removed alike."""
    rng = np.random.default_rng(2)
    shared = 10 * rng.standard_normal(30)
    sides = shared + 1 + 0.1 * rng.standard_normal(30), shared
    apart, differences = (f(*sides, statistic=np.mean, draws=300) for f in (apart_bootstrap, paired_bootstrap))
    assert (apart.low, apart.value, apart.high) == pytest.approx((differences.low, differences.value, differences.high))
    assert apart_bootstrap([0, 1, 2, 9], [9, 2, 1, 0], draws=50).value == 0
    with pytest.raises(ValueError, match="do not match"):
        apart_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="two or more"):
        apart_bootstrap([1], [2])


def test_unpaired_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="two or more"):
        paired_bootstrap([1], [2])


def test_a_share_over_seeds_covers_although_events_come_in_clusters() -> None:
    """Each seed has a rate of its own (mean .5) for its 20 events; 200 intervals over 40 seeds, four errors of 95 %."""
    rng, covered = np.random.default_rng(0), 0
    for draw in range(200):
        part = rng.binomial(20, rng.uniform(size=40))
        found = ratio_bootstrap(part, np.full(40, 20), draws=300, seed=draw)
        assert found.value == part.sum() / 800
        covered += found.low <= 0.5 <= found.high
    assert covered >= 178


def test_a_difference_of_shares_is_paired_by_seed() -> None:
    """Two methods that count the same differ by nothing in every draw; one that counts one more of ten by a tenth."""
    part, whole = [1, 5, 9], [10, 10, 10]
    same = ratio_bootstrap(part, whole, reference=(part, whole))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    more = ratio_bootstrap([2, 6, 10], whole, reference=(part, whole))
    assert (more.value, more.low, more.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_share_of_nothing_is_not_a_number() -> None:
    assert np.isnan(ratio_bootstrap([0, 0], [0, 0]).value)
    with pytest.raises(ValueError, match="do not match"):
        ratio_bootstrap([1], [1, 2])
