"""Clipped objectives of policy and value, and how their losses are added up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlback.maths.losses import aggregate, clipped_surrogate, log_ratio, value_loss

NAN = float("nan")


def logs(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows).log()


# Ratios to old log-probs of 0, and per-token advantages of all four kinds.
RATIOS = logs([[1.5, 1.5, 0.5, 0.5, 1.1]])
SIGNS = torch.tensor([[1.0, -1.0, -1.0, 1.0, 3.0]])


def test_worked_tokens() -> None:
    """1.5 up is cut to 1.2, 0.5 down to 0.8; wrong moves (1.5 down, 0.5 up) and small ones are left as they are."""
    found = clipped_surrogate(
        RATIOS, torch.zeros(1, 5), SIGNS, torch.ones(1, 5), low=0.2, high=0.2, level="token"
    )
    assert found.losses[0].tolist() == pytest.approx([-1.2, 1.5, 0.8, -0.5, -3.3])
    assert found.clipped[0].tolist() == [True, False, True, False, False]
    assert found.share.item() == pytest.approx(0.4)


def test_clipped_tokens_have_no_gradient() -> None:
    """The gradient is -A r where nothing was cut and 0 where it was."""
    logps = RATIOS.clone().requires_grad_()
    found = clipped_surrogate(logps, torch.zeros(1, 5), SIGNS, torch.ones(1, 5), low=0.2, high=0.2, level="token")
    found.losses.sum().backward()
    assert logps.grad[0].tolist() == pytest.approx([0.0, 1.5, 0.0, -0.5, -3.3])


def test_the_two_widths_are_separate() -> None:
    """A ratio of 1.25 passes high = 0.28 and one of 0.75 is cut at low = 0.2."""
    advantages = torch.tensor([[1.0, -1.0]])
    found = clipped_surrogate(
        logs([[1.25, 0.75]]), torch.zeros(1, 2), advantages, torch.ones(1, 2), low=0.2, high=0.28, level="token"
    )
    assert found.losses[0].tolist() == pytest.approx([-1.25, 0.8])
    assert found.clipped[0].tolist() == [False, True]


def test_worked_sequences() -> None:
    """Ratios 1.5 and 0.9 make 1.35: cut to 1.2 times 2. 0.5 and 2 make 1, though each token alone would be cut."""
    logps = logs([[1.5, 0.9, 7.0], [0.5, 2.0, 1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    found = clipped_surrogate(
        logps, torch.zeros(2, 3), torch.tensor([2.0, 3.0]), mask, low=0.2, high=0.2, level="sequence"
    )
    assert found.losses.tolist() == pytest.approx([-2.4, -3.0])
    assert found.clipped.tolist() == [True, False]
    assert found.share.item() == 0.5


def test_advantages_per_token_need_ratios_per_token() -> None:
    """At sequence level an advantage per token has no ratio to go with."""
    with pytest.raises(ValueError, match="per completion"):
        clipped_surrogate(RATIOS, RATIOS, SIGNS, torch.ones(1, 5), low=0.2, high=0.2, level="sequence")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_whatever_is_masked_stays_out(level: str) -> None:
    """NaN and infinities under mask 0 reach neither loss nor gradient; a row of them only is 0 and not counted."""
    logps = torch.tensor([[0.5, NAN, 0.0], [float("-inf"), NAN, 3.0]], requires_grad=True)
    old = torch.tensor([[0.0, float("-inf"), 0.0], [float("-inf"), 1.0, NAN]])
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    found = clipped_surrogate(logps, old, torch.tensor([1.0, NAN]), mask, low=0.2, high=0.2, level=level)
    loss = aggregate(found.losses, mask, "sequence_mean", completions=2)
    loss.backward()
    assert math.isfinite(loss.item())
    assert found.losses[1].sum().item() == 0
    assert found.share.item() == (0.5 if level == "token" else 1.0)
    assert torch.isfinite(logps.grad).all()
    assert (logps.grad[mask == 0] == 0).all()


def test_the_clamp_keeps_ratios_finite() -> None:
    """1000 nats become 20, at sequence level after summing: 15 and -5 are 10, 15 and 15 are 20."""
    old = torch.zeros(2, 2)
    logps = torch.tensor([[1000.0, -1000.0], [15.0, 15.0]])
    assert log_ratio(logps, old, torch.ones(2, 2), level="token").tolist() == [[20.0, -20.0], [15.0, 15.0]]
    logps[0] = torch.tensor([15.0, -5.0])
    assert log_ratio(logps, old, torch.ones(2, 2), level="sequence").tolist() == [10.0, 20.0]
    assert torch.isfinite(log_ratio(logps, old, torch.ones(2, 2), level="sequence").exp()).all()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_before_any_update_it_is_the_policy_gradient(level: str) -> None:
    """Where the policy is still the one that sampled, a token's gradient is -A / (completions * constant): REINFORCE."""
    draw = torch.Generator().manual_seed(5)
    logps = torch.randn(4, 6, generator=draw).requires_grad_()
    mask = (torch.rand(4, 6, generator=draw) > 0.4).float()
    advantages = torch.randn(4, generator=draw)
    found = clipped_surrogate(logps, logps.detach(), advantages, mask, low=0.2, high=0.2, level=level)
    loss = aggregate(found.losses, mask, "constant", completions=4, constant=20.0)
    (one,) = torch.autograd.grad(loss, logps)
    assert torch.allclose(one, -advantages[:, None] * mask / 80, atol=1e-7)


# Three completions of 3, 1 and 0 policy tokens.
LOSSES = torch.tensor([[1.0, 2.0, 3.0], [NAN, 4.0, 9.0], [7.0, NAN, 7.0]])
MASK = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()


def test_worked_aggregates() -> None:
    """Sums 6, 4, 0: 10 / 4 tokens = 2.5; means 2 + 4 + 0 over 3 = 2; 10 over 3 x 5 = 0.6667."""
    assert aggregate(LOSSES, MASK, "token_mean", tokens=4).item() == 2.5
    assert aggregate(LOSSES, MASK, "sequence_mean", completions=3).item() == 2
    assert aggregate(LOSSES, MASK, "constant", completions=3, constant=5).item() == pytest.approx(2 / 3)


def test_losses_per_completion() -> None:
    """6, 4 and 0 over 3 completions are 10/3, over 3 x 5 2/3; a mean over tokens they do not have."""
    losses = torch.tensor([6.0, 4.0, 0.0])
    assert aggregate(losses, MASK, "sequence_mean", completions=3).item() == pytest.approx(10 / 3)
    assert aggregate(losses, MASK, "constant", completions=3, constant=5).item() == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no mean over tokens"):
        aggregate(losses, MASK, "token_mean", tokens=4)


@pytest.mark.parametrize(
    ("how", "totals", "missing"),
    [
        ("token_mean", {"completions": 3}, "tokens"),
        ("sequence_mean", {"tokens": 4.0}, "completions"),
        ("constant", {"completions": 3}, "constant"),
        ("constant", {"constant": 5.0}, "completions"),
    ],
)
def test_a_missing_total_is_named(how: str, totals: dict[str, float], missing: str) -> None:
    """A part cannot guess the whole batch's count, so it has to be given."""
    with pytest.raises(ValueError, match=f"needs `{missing}`"):
        aggregate(LOSSES, MASK, how, **totals)


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("cut", [[7, 1], [1, 2, 5], [1] * 8])
def test_the_gradient_does_not_depend_on_the_cut(how: str, cut: list[int]) -> None:
    """Eight completions of uneven lengths in parts of any size accumulate the gradient of the whole."""
    draw = torch.Generator().manual_seed(9)
    weights = torch.randn(8, 5, generator=draw)
    mask = (torch.rand(8, 5, generator=draw) > torch.linspace(0, 0.9, 8)[:, None]).float()
    totals = {"tokens": float(mask.sum()), "completions": 8, "constant": 5.0}
    gradients = []
    for sizes in ([8], cut):
        logps = torch.zeros(8, 5, requires_grad=True)
        for part in torch.arange(8).split(sizes):
            aggregate((logps * weights)[part], mask[part], how, **totals).backward()
        gradients.append(logps.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)
    assert gradients[0].abs().sum() > 0


def test_worked_values() -> None:
    """From 1 to 2 at clip .5 is 1.5: towards R = 3 that is the larger error, 2.25 / 2; away from R = 0 it is not, 4 / 2."""
    values = torch.tensor([[2.0, 2.0, 1.2, NAN]], requires_grad=True)
    returns = torch.tensor([[3.0, 0.0, 3.0, NAN]])
    found = value_loss(values, torch.ones(1, 4), returns, torch.tensor([[1, 1, 1, 0]]).bool(), clip=0.5)
    assert found.losses[0].tolist() == pytest.approx([1.125, 2.0, 1.62, 0.0])
    assert found.clipped[0].tolist() == [True, False, False, False]
    assert found.share.item() == pytest.approx(1 / 3)
    found.losses.sum().backward()
    assert values.grad[0].tolist() == pytest.approx([0.0, 2.0, -1.8, 0.0])


def test_an_infinite_clip_is_the_squared_error() -> None:
    """(2 - 3)^2 / 2 and (50 - 0)^2 / 2, nothing clipped."""
    values, returns = torch.tensor([[2.0, 50.0]]), torch.tensor([[3.0, 0.0]])
    found = value_loss(values, torch.ones(1, 2), returns, torch.ones(1, 2), clip=math.inf)
    assert found.losses.tolist() == [[0.5, 1250.0]]
    assert found.share.item() == 0
