"""The bandit's planted properties, its annotators and its reward model."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlback.errors import ConfigError
from rlback.worlds.bandit import policies, reward_model
from rlback.worlds.bandit.annotators import BanditAnnotator, Pairs, at, label, win_probability
from rlback.worlds.bandit.problem import Bandit, BanditConfig, bad_probability, distance_needed, make, peak_distance, rho

NOISELESS = BanditAnnotator(temperature=0.0)


def test_gold_is_standardised_on_the_base_policy() -> None:
    bandit = make(BanditConfig(away=0.4), seeds=5)
    np.testing.assert_allclose(policies.value(bandit.base, bandit.gold), 0, atol=1e-12)
    np.testing.assert_allclose(policies.spread(bandit.base, bandit.gold), 1)


def test_a_seed_gives_the_same_problem_again() -> None:
    one, two = (make(BanditConfig(), seeds=2, seed=9) for _ in range(2))
    assert (one.gold == two.gold).all()
    assert (one.base == two.base).all()


def test_scenario_one_has_the_bad_mode_asked_for() -> None:
    bandit = make(BanditConfig(bad_mass=0.3), seeds=4)
    np.testing.assert_allclose(bad_probability(bandit, bandit.base), 0.3)
    np.testing.assert_allclose(np.exp(bandit.base).sum(-1), 1)
    greedy = policies.optimum_at_kl(bandit.base, bandit.gold, 1e6)
    assert (bad_probability(bandit, greedy) < 1e-6).all()


def test_scenario_two_puts_the_same_answers_further_away() -> None:
    near, far = (make(BanditConfig(away=a, planted=0), seeds=8, seed=1) for a in (0.0, 1.0))
    # The same actions are good in both; what changes is how improbable the base policy finds them.
    best = near.gold.argmax(-1)[..., None]
    assert (best == far.gold.argmax(-1)[..., None]).all()
    surprise = [-np.take_along_axis(b.base, best, -1).mean((1, 2)) for b in (near, far)]
    assert (surprise[1] > surprise[0]).all()


def test_distance_needed_is_the_shortest() -> None:
    bandit = make(BanditConfig(contexts=2, actions=6, planted=1), seeds=3)
    shortest = distance_needed(bandit, 0.5)
    rng = np.random.default_rng(0)
    for _ in range(300):
        other = policies.log_softmax(bandit.base + rng.standard_normal(bandit.base.shape))
        there = policies.value(other, bandit.gold) >= 0.5
        assert (np.sqrt(policies.kl(other, bandit.base))[there] >= shortest[there]).all()
    assert np.isinf(distance_needed(bandit, 1e3)).all()


def test_rho_falls_when_the_first_reward_model_has_more_labels() -> None:
    bandit = make(BanditConfig(), seeds=40)
    grid = np.linspace(0, 2.5, 26)
    found = []
    for n in (15, 2000):
        pairs = label(bandit, BanditAnnotator(), bandit.base, bandit.base, n, np.random.default_rng(n))
        proxy = reward_model.score(bandit, reward_model.fit(bandit, pairs))
        found.append(np.median(rho(bandit, proxy, 1.0, grid)))
        assert (peak_distance(bandit, proxy, grid) <= grid[-1]).all()
    assert found[1] < found[0]


def test_preferences_of_each_kind_of_annotator() -> None:
    difference = np.array([-1.0, 0.0, 1.0])
    assert NOISELESS.preference(difference).tolist() == [0.0, 0.5, 1.0]
    sigmoid = 1 / (1 + np.exp(-difference))
    np.testing.assert_allclose(BanditAnnotator().preference(difference), sigmoid)
    np.testing.assert_allclose(BanditAnnotator(flip=0.1).preference(difference), 0.1 + 0.8 * sigmoid)


def test_bias_moves_the_human_reward_and_nothing_else() -> None:
    bandit = make(BanditConfig(), seeds=2)
    biased = BanditAnnotator(length_bias=0.5, confidence_bias=-1.0, fooled=4.0)
    moved = biased.reward(bandit) - bandit.gold
    np.testing.assert_allclose(moved, 0.5 * bandit.length - bandit.confidence + 4.0 * bandit.planted)
    assert (NOISELESS.reward(bandit) == bandit.gold).all()


def test_labels_have_the_exact_win_probability() -> None:
    bandit = make(BanditConfig(contexts=3, actions=6, planted=1), seeds=2)
    annotator = BanditAnnotator(flip=0.1, fooled=2.0)
    better = policies.optimum(bandit.base, bandit.gold, 1.0)
    exact = win_probability(bandit, annotator, better, bandit.base)
    n = 40_000
    seen = label(bandit, annotator, better, bandit.base, n, np.random.default_rng(3)).a_wins.mean(1)
    assert (np.abs(seen - exact) < 5 * np.sqrt(0.25 / n)).all()
    np.testing.assert_allclose(win_probability(bandit, annotator, better, better), 0.5)


def test_fit_recovers_gold_where_the_model_is_well_specified() -> None:
    bandit = make(BanditConfig(seen=6, planted=0), seeds=3)
    pairs = label(bandit, BanditAnnotator(), bandit.base, bandit.base, 20_000, np.random.default_rng(2))
    found = reward_model.score(bandit, reward_model.fit(bandit, pairs, ridge=1e-3))
    centred = found - policies.value(bandit.base, found)[:, None, None]
    assert np.abs(centred - bandit.gold).max() < 0.35
    assert np.corrcoef(centred.ravel(), bandit.gold.ravel())[0, 1] > 0.995


def test_an_unseen_feature_is_not_learned_from_any_number_of_labels() -> None:
    bandit = make(BanditConfig(seen=2, planted=0), seeds=6)
    pairs = label(bandit, BanditAnnotator(), bandit.base, bandit.base, 20_000, np.random.default_rng(2))
    found = reward_model.score(bandit, reward_model.fit(bandit, pairs, ridge=1e-3))
    assert np.corrcoef(found.ravel(), bandit.gold.ravel())[0, 1] < 0.9


def test_fit_is_stationary_and_weight_zero_leaves_a_pair_out() -> None:
    bandit = make(BanditConfig(), seeds=2)
    pairs = label(bandit, NOISELESS, bandit.base, bandit.base, 60, np.random.default_rng(1))
    theta = reward_model.fit(bandit, pairs, ridge=0.3)
    x = at(bandit.visible, pairs.context, pairs.a) - at(bandit.visible, pairs.context, pairs.b)
    ones = np.ones((2, 60))
    for f in range(theta.shape[1]):
        bump = np.zeros_like(theta)
        bump[:, f] = 1e-4
        up, here, down = (reward_model.loss(x, pairs.a_wins, theta + s * bump, ones, 0.3) for s in (1, 0, -1))
        assert (up > here).all()
        assert (down > here).all()
    weights = ones.copy()
    weights[:, 40:] = 0
    first = Pairs(*(getattr(pairs, name)[:, :40] for name in ("context", "a", "b", "a_wins")))
    rest = Pairs(*(getattr(pairs, name)[:, 40:] for name in ("context", "a", "b", "a_wins")))
    np.testing.assert_allclose(
        reward_model.fit(bandit, first.joined(rest), weights=weights), reward_model.fit(bandit, first), atol=1e-8
    )


def test_what_is_out_of_range_is_named() -> None:
    sizes = ({"seen": 9}, {"planted": 40}, {"bad_mass": 1.5}, {"bad_mass": 0.2, "planted": 0}, {"actions": 1})
    for bad in (*sizes, {"warmth": -1.0}, {"warmth": float("inf")}):
        with pytest.raises(ConfigError):
            BanditConfig(**bad)  # type: ignore[arg-type]
    for bad in ({"temperature": -1.0}, {"flip": 0.6}, {"fooled": float("nan")}):
        with pytest.raises(ConfigError):
            BanditAnnotator(**bad)
    with pytest.raises(ValueError, match="ridge"):
        reward_model.fit(make(BanditConfig(), 1), None, ridge=0.0)  # type: ignore[arg-type]


WARM = BanditConfig(actions=120, warmth=1.0)
GRID = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])


def golds(bandit: Bandit, pairs: Pairs) -> NDArray[np.float64]:
    """Mean gold over seeds (d,) of the optimum for the reward model fitted to `pairs`, at each distance of GRID."""
    proxy = reward_model.score(bandit, reward_model.fit(bandit, pairs))
    optima = [policies.optimum_at_kl(bandit.base, proxy, d**2) for d in GRID]
    return np.array([policies.value(p, bandit.gold).mean() for p in optima])


def test_warmth_makes_a_reward_model_of_base_pairs_overoptimise() -> None:
    """Gold rises, turns and falls below the base while the proxy rises; without warmth it does not fall."""
    bandit = make(WARM, seeds=60, seed=1)
    pairs = label(bandit, BanditAnnotator(), bandit.base, bandit.base, 60, np.random.default_rng(60))
    curve = golds(bandit, pairs)
    assert 0 < curve.argmax() < len(GRID) - 1
    assert curve.max() > 0.5
    assert curve[-1] < 0
    plain = make(BanditConfig(actions=120), seeds=60, seed=1)
    pairs = label(plain, BanditAnnotator(), plain.base, plain.base, 60, np.random.default_rng(60))
    curve = golds(plain, pairs)
    assert curve[-1] > curve.max() - 0.05


def test_labels_on_the_overoptimised_policy_teach_what_base_pairs_cannot() -> None:
    """Thirty labels where the first reward model leads are worth more than thirty on the base policy."""
    bandit = make(WARM, seeds=60, seed=1)
    rng = np.random.default_rng(60)
    first = label(bandit, BanditAnnotator(), bandit.base, bandit.base, 60, rng)
    proxy = reward_model.score(bandit, reward_model.fit(bandit, first))
    there = policies.optimum_at_kl(bandit.base, proxy, 1.5**2)
    inside = label(bandit, BanditAnnotator(), there, there, 15, rng)
    across = label(bandit, BanditAnnotator(), there, bandit.base, 15, rng)
    more = label(bandit, BanditAnnotator(), bandit.base, bandit.base, 30, rng)
    refreshed, lagging = golds(bandit, first.joined(inside).joined(across)), golds(bandit, first.joined(more))
    assert refreshed.max() > lagging.max() + 0.25
    assert refreshed[-1] > lagging[-1] + 0.25


def test_the_best_dose_of_warmth_is_rare_and_the_bad_ones_rarer() -> None:
    """Length is the dose: gold prefers 3 to 0 and to 10, and the base policy hardly ever goes beyond 3."""
    bandit = make(BanditConfig(actions=400, planted=0, warmth=3.0), seeds=4)
    by_dose = [bandit.gold[bandit.length == dose].mean() for dose in (0, 3, 10)]
    assert by_dose[1] > by_dose[0] > by_dose[2]
    assert (policies.value(bandit.base, (bandit.length > 3).astype(float)) < 0.05).all()
