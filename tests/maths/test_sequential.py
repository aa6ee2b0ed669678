"""Tests valid at any stopping time hold their level; corrections invert what noise does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlback.maths.sequential import (
    accuracy_behind,
    agreement_seen,
    attempt_alpha,
    betting_bounds,
    first_decision,
    label_accuracy_from_duplicates,
    prediction_powered,
    repeated_false_approval,
    selection_pressure,
    zero_failures_needed,
)


@pytest.mark.parametrize("mean", [0.5, 0.85])
def test_bounds_cover_the_mean_at_every_time_at_once(mean: float) -> None:
    """Over 150 sequences looked at after each of 120 labels; at level .2, 50 misses lie four errors above 30."""
    rng, missed = np.random.default_rng(4), 0
    for _ in range(150):
        bounds = betting_bounds(rng.random(120) < mean, alpha=0.2)
        missed += bool(((bounds.lower > mean) | (bounds.upper < mean)).any())
    assert missed <= 50


def test_bounds_close_in_and_decide() -> None:
    wins = np.random.default_rng(1).random(400) < 0.75
    bounds = betting_bounds(wins)
    assert (np.diff(bounds.lower) >= 0).all()
    assert (np.diff(bounds.upper) <= 0).all()
    assert bounds.upper[-1] - bounds.lower[-1] < 0.25
    decided = first_decision(bounds, 0.5)
    assert decided is not None
    assert decided[1]
    assert bounds.lower[decided[0] - 1] > 0.5 >= bounds.lower[decided[0] - 2]
    assert first_decision(betting_bounds([1, 0]), 0.5) is None


def test_swapping_wins_and_losses_mirrors_the_bounds() -> None:
    y = np.random.default_rng(2).random(80)
    one, other = betting_bounds(y), betting_bounds(1 - y)
    np.testing.assert_allclose(one.lower, 1 - other.upper, atol=1e-9)


def test_all_wins_never_exclude_a_mean_of_one() -> None:
    bounds = betting_bounds(np.ones(200))
    assert (bounds.upper == 1).all()
    assert bounds.lower[-1] > 0.9


def test_bad_input_of_a_betting_test() -> None:
    with pytest.raises(ValueError, match="alpha"):
        betting_bounds([0.5], alpha=1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        betting_bounds([0.5, 1.5])


def test_what_attempts_spend_adds_up_to_alpha() -> None:
    spent = sum(attempt_alpha(0.05, c, a) for c in range(1, 301) for a in range(1, 301))
    assert 0.0495 < spent < 0.05
    with pytest.raises(ValueError, match="counted from 1"):
        attempt_alpha(0.05, 0, 1)


def test_repeats_without_spending() -> None:
    assert math.isclose(repeated_false_approval(0.05, 10), 1 - 0.95**10)
    assert selection_pressure(1) == 0
    assert math.isclose(selection_pressure(4), math.log(4) - 0.75)


def test_label_noise_is_inverted() -> None:
    for accuracy in (0.5, 0.8, 1.0):
        assert math.isclose(accuracy_behind(agreement_seen(accuracy, 0.75), 0.75), accuracy)
    assert math.isclose(agreement_seen(0.8, 0.75), 0.65)
    for q in (0.5, 0.75, 1.0):
        assert math.isclose(label_accuracy_from_duplicates(q * q + (1 - q) ** 2), q)
    assert label_accuracy_from_duplicates(0.3) == 0.5
    with pytest.raises(ValueError, match="no information"):
        accuracy_behind(0.6, 0.5)


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_zero_failures_is_the_smallest_number_that_will_do(rate: float) -> None:
    n = zero_failures_needed(rate)
    assert (1 - rate) ** n <= 0.05 < (1 - rate) ** (n - 1)


def test_prediction_powered_mean_is_unbiased_and_its_error_honest() -> None:
    rng, found, errors = np.random.default_rng(0), [], []
    for _ in range(400):
        truth = rng.random(1100)
        guess = truth + 0.2 + 0.05 * rng.standard_normal(1100)  # precise, but off by 0.2 throughout
        estimate = prediction_powered(truth[:100], guess[:100], guess[100:])
        found.append(estimate.value)
        errors.append(estimate.error)
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / 20
    assert 0.85 < np.mean(errors) / np.std(found) < 1.15
    assert np.mean(errors) < 0.5 * math.sqrt(1 / 12 / 100)  # than the labels alone
    with pytest.raises(ValueError, match="prediction for every label"):
        prediction_powered([1, 0], [1], [1, 0])
