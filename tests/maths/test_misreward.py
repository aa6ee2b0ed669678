"""Misreward exposure of a step."""

from __future__ import annotations

import torch

from rlback.maths.misreward import Exposure, exposure

# Four samples. Signs: 1 agrees (+,+), 2 disagrees (+,-0.2: mildly), 3 disagrees (+,-1: clearly wrong),
# 4 agrees (-,-). Weights 1, 2, 3, 4.
ADVANTAGES = torch.tensor([1.0, 2.0, 3.0, -4.0])
GOLD = torch.tensor([0.5, -0.2, -1.0, -2.0])


def test_worked_step() -> None:
    """Wrong signs weigh 2 + 3 of 10; pushed up and below -0.5 weighs 3 of 1 + 2 + 3 = 6."""
    found = exposure(ADVANTAGES, GOLD, ADVANTAGES.abs(), learning_rate=0.1)
    assert (found.sign_wrong, found.sign_all, found.sign) == (5, 10, 0.5)
    assert (found.false_wrong, found.false_all, found.false) == (3, 6, 0.5)
    assert abs(found.integrated - 0.5) < 1e-9


def test_a_clipped_sample_has_no_weight() -> None:
    """With the third sample clipped, 2 of 7 has the wrong sign and nothing clearly wrong is pushed up."""
    found = exposure(ADVANTAGES, GOLD, torch.tensor([1.0, 2.0, 0.0, 4.0]))
    assert (found.sign_wrong, found.sign_all) == (2, 7)
    assert found.false == 0


def test_epsilon_is_the_margin_of_clearly() -> None:
    """At epsilon 0.1 the mildly wrong second sample counts too: (2 + 3) of 6; at 1 nothing does."""
    weights = ADVANTAGES.abs()
    assert exposure(ADVANTAGES, GOLD, weights, epsilon=0.1).false_wrong == 5
    assert exposure(ADVANTAGES, GOLD, weights, epsilon=1.0).false_wrong == 0


def test_steps_add_up_by_weight() -> None:
    """Shares 0/30 and 5/10 add to 5/40, not to their mean of a quarter."""
    total = Exposure(sign_wrong=0, sign_all=30) + exposure(ADVANTAGES, GOLD, ADVANTAGES.abs())
    assert total.sign == 0.125


def test_the_gold_reward_itself_is_never_exposed() -> None:
    """Advantages that are the gold ones give shares of 0; an empty exposure does too."""
    found = exposure(GOLD, GOLD, GOLD.abs())
    assert (found.sign, found.false) == (0, 0)
    assert (Exposure().sign, Exposure().false) == (0, 0)
