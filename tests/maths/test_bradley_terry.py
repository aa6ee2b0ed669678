"""The Bradley-Terry loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_margin_asks_for_a_lead() -> None:
    """A lead of ln 3 where ln 3 is asked for is worth no more than equal scores: ln 2. A margin of 0 is none."""
    chosen, rejected = torch.tensor([math.log(3)] * 2), torch.zeros(2)
    margins = torch.tensor([math.log(3), 0.0])
    losses = bradley_terry.pair_losses(chosen, rejected, margin=margins)
    assert losses.tolist() == pytest.approx([math.log(2), 0.287682], abs=1e-6)
    mean = (math.log(2) + 0.287682) / 2
    assert bradley_terry.loss(chosen, rejected, margins=margins).item() == pytest.approx(mean, abs=1e-6)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0, 1), st.floats(0, 3))
def test_sides_can_be_swapped(a: float, b: float, share: float, margin: float) -> None:
    """(a, b) with target t costs what (b, a) with target 1 - t costs, whatever the margin."""
    one, other = torch.tensor([a]).double(), torch.tensor([b]).double()
    forth = bradley_terry.pair_losses(one, other, target=share, margin=margin)
    back = bradley_terry.pair_losses(other, one, target=1 - share, margin=margin)
    assert torch.allclose(forth, back, atol=1e-9)


def test_votes_are_matched_not_maximised() -> None:
    """With 3 votes of 4 the loss is least, at its entropy 0.562335, where the model says 3/4: at a lead of ln 3."""
    chosen = torch.tensor([math.log(3)], requires_grad=True)
    loss = bradley_terry.loss(chosen, torch.zeros(1), votes=torch.tensor([0.75]))
    loss.backward()
    assert loss.item() == pytest.approx(0.562335, abs=1e-6)
    assert chosen.grad.item() == pytest.approx(0, abs=1e-6)


def test_votes_smoothing_and_ties_in_one_loss() -> None:
    """At a lead of ln 3 and e = .1: votes .75 aim at .7 (0.617266), votes 0 at .1 (1.276433), a tie at .5 (0.836988)."""
    chosen, rejected = torch.full((3,), math.log(3)), torch.zeros(3)
    loss = bradley_terry.loss(
        chosen,
        rejected,
        votes=torch.tensor([0.75, 0.0, 0.75]),
        ties=torch.tensor([False, False, True]),
        weights=torch.tensor([1.0, 2.0, 5.0]),
        label_smoothing=0.1,
    )
    assert loss.item() == pytest.approx((0.617266 + 2 * 1.276433 + 5 * 0.836988) / 8, abs=1e-6)


def test_a_tie_with_a_margin_still_wants_equal_scores() -> None:
    """The two leads asked for balance at 0, so equal scores have no gradient."""
    chosen = torch.zeros(1, requires_grad=True)
    bradley_terry.loss(chosen, torch.zeros(1), ties=torch.ones(1), margins=torch.ones(1)).backward()
    assert chosen.grad.item() == 0


def test_centering_sees_the_level_and_not_the_difference() -> None:
    """(1 + 3)^2 and (-2 + 2)^2 average to 8; both sides are pulled down alike, so no difference moves."""
    chosen = torch.tensor([1.0, -2.0], requires_grad=True)
    rejected = torch.tensor([3.0, 2.0], requires_grad=True)
    penalty = bradley_terry.centering(chosen, rejected)
    penalty.backward()
    assert penalty.item() == 8
    assert chosen.grad.tolist() == rejected.grad.tolist() == [4.0, 0.0]
