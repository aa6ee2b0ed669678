"""Direct preference losses: DPO and IPO."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlback.maths.losses import dpo, ipo

LN3 = math.log(3)
REF_CHOSEN, REF_REJECTED = torch.tensor([-10.0]), torch.tensor([-4.0])


def moved(chosen: float, rejected: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs of a policy whose log ratios to the reference are the two numbers."""
    return REF_CHOSEN + chosen, REF_REJECTED + rejected, REF_CHOSEN, REF_REJECTED


def test_worked_dpo() -> None:
    """Log ratios 2 ln 3 and 0 at beta 1/2 are rewards ln 3 and 0: loss -ln 3/4 = 0.287682, smoothed by .1 0.397543."""
    found = dpo(*moved(2 * LN3, 0.0), beta=0.5)
    assert found.losses.item() == pytest.approx(0.287682, abs=1e-5)
    assert found.chosen_rewards.item() == pytest.approx(LN3, abs=1e-5)
    assert found.rejected_rewards.item() == 0
    smoothed = dpo(*moved(2 * LN3, 0.0), beta=0.5, label_smoothing=0.1)
    assert smoothed.losses.item() == pytest.approx(0.397543, abs=1e-5)


def test_the_reference_itself_costs_ln_2() -> None:
    """However much likelier the reference finds one of them, a policy that has not moved is undecided."""
    assert dpo(*moved(0.0, 0.0), beta=0.1).losses.item() == pytest.approx(math.log(2), abs=1e-6)


def test_smoothing_asks_for_a_finite_margin() -> None:
    """With one label in ten wrong the gradient is 0 where the model says 9/10, at a reward margin of ln 9."""
    for lead, sign in ((math.log(9) - 1, -1), (math.log(9), 0), (math.log(9) + 1, 1)):
        chosen = (REF_CHOSEN + lead / 0.5).requires_grad_()
        dpo(chosen, *moved(0.0, 0.0)[1:], beta=0.5, label_smoothing=0.1).losses.sum().backward()
        slope = chosen.grad.item()
        assert abs(slope) < 1e-6 if sign == 0 else math.copysign(1, slope) == sign


def test_worked_ipo() -> None:
    """beta 1/4 asks for a gap of 2: log ratios 2 and .5 miss it by .5; the gap is not to be exceeded either."""
    assert ipo(*moved(2.0, 0.5), beta=0.25).losses.item() == pytest.approx(0.25, abs=1e-5)
    assert ipo(*moved(3.0, 0.5), beta=0.25).losses.item() == pytest.approx(0.25, abs=1e-5)
    assert ipo(*moved(2.5, 0.5), beta=0.25).losses.item() == pytest.approx(0.0, abs=1e-5)


def test_lengths_make_the_gap_one_per_token() -> None:
    """Log ratios 6 over 3 tokens and 2 over 4 are 2 and .5 a token: the gap misses 2 by .5. Summed it exceeds it by 2."""
    lengths = torch.tensor([3]), torch.tensor([4])
    found = ipo(*moved(6.0, 2.0), beta=0.25, lengths=lengths)
    assert found.losses.item() == pytest.approx(0.25, abs=1e-5)
    assert ipo(*moved(6.0, 2.0), beta=0.25).losses.item() == pytest.approx(4.0, abs=1e-5)
    assert (found.chosen_rewards.item(), found.rejected_rewards.item()) == pytest.approx((1.5, 0.5), abs=1e-5)


@pytest.mark.parametrize("method", [dpo, ipo])
def test_weights_multiply_and_rewards_are_constants(method) -> None:
    """A weight of 3 is 3 of the same pair, one of 0 none; the rewards carry no gradient."""
    chosen = torch.tensor([-9.0, -9.0, -9.0], requires_grad=True)
    rest = torch.tensor([-5.0] * 3), torch.tensor([-10.0] * 3), torch.tensor([-4.0] * 3)
    plain = method(chosen, *rest, beta=0.3)
    found = method(chosen, *rest, beta=0.3, weights=torch.tensor([1.0, 3.0, 0.0]))
    one = plain.losses[0].item()
    assert found.losses.tolist() == pytest.approx([one, 3 * one, 0.0])
    assert not found.chosen_rewards.requires_grad
    assert not found.rejected_rewards.requires_grad
    found.losses.sum().backward()
    assert chosen.grad[2] == 0
    assert chosen.grad[1] == pytest.approx(3 * chosen.grad[0].item())
