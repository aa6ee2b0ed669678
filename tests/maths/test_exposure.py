"""Exposure by effect, exact on the bandit and on small worked cases."""

from __future__ import annotations

import math

import numpy as np

from rlback.maths.exposure import Share, adverse_flow, bad_mass
from rlback.worlds.bandit import policies
from rlback.worlds.bandit.annotators import BanditAnnotator
from rlback.worlds.bandit.problem import BanditConfig, make

BANDIT = make(BanditConfig(bad_mass=0.2, planted_cost=4.0), seeds=3)


def test_bad_mass_of_a_worked_step() -> None:
    """Two of four actions rise, from .25 each: to .5 (bad) and to .35."""
    before, after = np.log([0.25] * 4), np.log([0.5, 0.35, 0.1, 0.05])
    found = bad_mass(before, after, [True, False, True, False])
    assert math.isclose(found.part, 0.25 * math.log(2))
    assert math.isclose(found.value, math.log(2) / (math.log(2) + math.log(1.4)))
    assert bad_mass(before, before, [True] * 4).value == 0


def test_steps_add_up_to_the_share_of_the_sum() -> None:
    assert (Share(1, 2) + Share(0, 6)).value == 1 / 8
    assert Share().value == 0


def test_a_step_on_gold_feeds_no_planted_item_and_a_fooled_label_does() -> None:
    fooled = BanditAnnotator(fooled=20.0).reward(BANDIT)
    shares = {}
    for name, reward in (("gold", BANDIT.gold), ("fooled", fooled)):
        after = policies.log_softmax(BANDIT.base + 0.1 * reward)
        shares[name] = bad_mass(BANDIT.base, after, BANDIT.bad).value
    assert shares["gold"] < 0.02
    assert shares["fooled"] > 0.9


def test_flow_is_the_first_order_effect_on_gold() -> None:
    gold = policies.reward_gradient(BANDIT.base, BANDIT.gold)[0]
    assert adverse_flow(gold, gold).value == 0
    assert math.isclose(adverse_flow(-2 * gold, gold).value, 1)
    fooled = policies.reward_gradient(BANDIT.base, BanditAnnotator(fooled=20.0).reward(BANDIT))[0]
    harm = adverse_flow(fooled, gold)
    h = 1e-6
    after = policies.log_softmax(BANDIT.base[:1] + h * fooled)
    change = (policies.value(after, BANDIT.gold[:1]) - policies.value(BANDIT.base[:1], BANDIT.gold[:1]))[0] / h
    assert change < 0
    assert math.isclose(harm.part, -change, rel_tol=1e-3)
