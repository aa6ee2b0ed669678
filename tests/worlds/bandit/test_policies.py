"""Exact quantities of softmax policies, each against another way of computing it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlback.worlds.bandit import policies

RNG = np.random.default_rng(5)
REFERENCE = policies.log_softmax(RNG.standard_normal((3, 2, 5)))
REWARD = RNG.standard_normal((3, 2, 5))


def objective(log_policy: np.ndarray, beta: float) -> np.ndarray:
    return policies.value(log_policy, REWARD) - beta * policies.kl(log_policy, REFERENCE)


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_optimum_attains_beta_log_z_and_beats_its_neighbours(beta: float) -> None:
    best = policies.optimum(REFERENCE, REWARD, beta)
    np.testing.assert_allclose(objective(best, beta), policies.optimal_objective(REFERENCE, REWARD, beta), rtol=1e-10)
    for _ in range(20):
        other = policies.log_softmax(best + 0.1 * RNG.standard_normal(best.shape))
        assert (objective(other, beta) < objective(best, beta)).all()


def test_gradient_vanishes_at_the_optimum_and_ascent_arrives_there() -> None:
    # Ascent is slow on actions that the policy finds improbable, hence a beta that keeps the optimum near by.
    best = policies.optimum(REFERENCE, REWARD, 2.0)
    assert np.abs(policies.objective_gradient(best, REFERENCE, REWARD, 2.0)).max() < 1e-12
    arrived = policies.ascend(REFERENCE, REFERENCE, REWARD, beta=2.0, rate=2.0, steps=3000)
    np.testing.assert_allclose(np.exp(arrived), np.exp(best), atol=1e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    logits, h = REFERENCE + 0.3 * REWARD, 1e-5
    exact = policies.objective_gradient(policies.log_softmax(logits), REFERENCE, REWARD, 0.4)
    for x, a in itertools.product(range(2), range(5)):
        bump = np.zeros_like(logits)
        bump[:, x, a] = h
        up, down = (objective(policies.log_softmax(logits + s * bump), 0.4) for s in (1, -1))
        np.testing.assert_allclose((up - down) / (2 * h), exact[:, x, a], atol=1e-8)


def test_optimum_at_a_distance_has_that_distance() -> None:
    target = np.array([0.01, 0.3, 0.6])
    found = policies.optimum_at_kl(REFERENCE, REWARD, target)
    np.testing.assert_allclose(policies.kl(found, REFERENCE), target, rtol=1e-8)


def test_a_distance_beyond_the_greedy_policy_gives_the_greedy_policy() -> None:
    found = policies.optimum_at_kl(REFERENCE, REWARD, 1e6)
    np.testing.assert_allclose(policies.value(found, REWARD), REWARD.max(-1).mean(-1))


def test_optimum_at_a_value_has_it_at_the_same_kl_as_the_other_way_round() -> None:
    by_kl = policies.optimum_at_kl(REFERENCE, REWARD, 0.3)
    by_value = policies.optimum_at_value(REFERENCE, REWARD, policies.value(by_kl, REWARD))
    np.testing.assert_allclose(policies.kl(by_value, REFERENCE), 0.3, rtol=1e-6)


def test_best_of_three_with_a_tie_equals_enumeration() -> None:
    p = np.array([0.5, 0.2, 0.2, 0.1])
    proxy = np.array([0.0, 1.0, 1.0, 2.0])
    expected = np.zeros(4)
    for draw in itertools.product(range(4), repeat=3):
        top = [i for i in draw if proxy[i] == max(proxy[j] for j in draw)]
        for i in top:
            expected[i] += p[list(draw)].prod() / len(top)
    found = policies.best_of_n(np.log(p)[None, None], proxy[None, None], 3)
    np.testing.assert_allclose(np.exp(found)[0, 0], expected, atol=1e-12)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="beta > 0"):
        policies.optimum(REFERENCE, REWARD, 0.0)
    with pytest.raises(ValueError, match="n >= 1"):
        policies.best_of_n(REFERENCE, REWARD, 0)
