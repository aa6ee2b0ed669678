"""The Bradley-Terry loss."""

from __future__ import annotations

import math

import torch

from rlback.maths import bradley_terry


def test_equal_scores_cost_ln_2() -> None:
    """Equal scores say 1/2 whatever the smoothing, which costs ln 2."""
    scores = torch.tensor([1.5, -4.0])
    for smoothing in (0.0, 0.05, 0.3):
        loss = bradley_terry.loss(scores, scores, label_smoothing=smoothing)
        assert abs(loss.item() - math.log(2)) < 1e-6


def test_worked_pair() -> None:
    """A margin of ln 3 means P = 3/4: loss -ln 0.75 = 0.287682; smoothed by 0.1: 0.9*0.287682 + 0.1*ln 4."""
    chosen, rejected = torch.tensor([math.log(3)]), torch.tensor([0.0])
    assert abs(bradley_terry.loss(chosen, rejected).item() - 0.287682) < 1e-6
    assert abs(bradley_terry.loss(chosen, rejected, label_smoothing=0.1).item() - 0.397543) < 1e-6


def test_weights_make_a_weighted_mean() -> None:
    """Losses ln 2 and 0.287682 with weights 1 and 3 average to (0.693147 + 0.863046) / 4 = 0.389048."""
    chosen, rejected = torch.tensor([0.0, math.log(3)]), torch.zeros(2)
    loss = bradley_terry.loss(chosen, rejected, weights=torch.tensor([1.0, 3.0]))
    assert abs(loss.item() - 0.389048) < 1e-6


def test_a_tie_pulls_the_scores_together() -> None:
    """At margin 2 the gradient of a tie lowers the chosen score; that of a plain label raises it."""
    for ties, sign in ((torch.ones(1), 1), (torch.zeros(1), -1)):
        chosen = torch.tensor([2.0], requires_grad=True)
        bradley_terry.loss(chosen, torch.zeros(1), ties=ties).backward()
        assert math.copysign(1, chosen.grad.item()) == sign


def test_a_huge_wrong_margin_is_finite() -> None:
    """A margin of -1000 costs 1000 nats, not infinity."""
    assert bradley_terry.loss(torch.tensor([-1000.0]), torch.zeros(1)).item() == 1000.0


def test_accuracy_counts_equal_scores_half() -> None:
    """Right, wrong, equal, right: 2.5 of 4."""
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert bradley_terry.accuracy(chosen, rejected).item() == 0.625
