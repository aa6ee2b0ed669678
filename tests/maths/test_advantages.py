"""Group advantages, token returns, generalised advantage estimation and whitening."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlback.maths.advantages import (
    gae,
    group_normalised,
    leave_one_out,
    place_score,
    standardise,
    token_returns,
    whiten,
)

NAN = float("nan")


def test_worked_group() -> None:
    """Rewards 1, 2, 6: the others average 4, 3.5 and 1.5, so the advantages are -3, -1.5 and 4.5."""
    assert leave_one_out(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-3.0, -1.5, 4.5]]


@given(st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5))
def test_each_group_sums_to_zero(rewards: list[list[float]]) -> None:
    """Whatever the rewards, the advantages of a prompt's completions sum to 0."""
    sums = leave_one_out(torch.tensor(rewards, dtype=torch.float64)).sum(-1)
    assert torch.allclose(sums, torch.zeros_like(sums), atol=1e-9)


def test_a_constant_added_to_a_group_changes_nothing() -> None:
    """The baseline takes out whatever a prompt's completions have in common."""
    rewards = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 5.0]])
    shifted = rewards + torch.tensor([[7.0], [-4.0]])
    assert torch.allclose(leave_one_out(rewards), leave_one_out(shifted), atol=1e-6)


def test_one_completion_has_no_baseline() -> None:
    """A group of one is refused."""
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(3, 1))


def test_standardise_by_the_batch() -> None:
    """-3, -1.5, 4.5 have variance (9 + 2.25 + 20.25) / 3 = 10.5, so 4.5 becomes 4.5 / 3.2404 = 1.3887."""
    scaled = standardise(torch.tensor([[-3.0, -1.5, 4.5]]))
    assert abs(scaled[0, 2].item() - 1.388730) < 1e-5
    assert abs(scaled.std(unbiased=False).item() - 1) < 1e-6


def test_equal_rewards_give_no_signal() -> None:
    """A batch whose completions are all worth the same keeps advantages of 0 and divides by nothing."""
    assert standardise(leave_one_out(torch.full((2, 4), 3.0))).tolist() == [[0.0] * 4] * 2


def test_worked_group_normalised() -> None:
    """Rewards 1, 2, 6 deviate by -2, -1, 3 from 3; variance (4 + 1 + 9) / 2 = 7, so 3 / (2.64575 + 1e-4) = 1.13385."""
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert group_normalised(rewards, divide_by_std=False).tolist() == [[-2.0, -1.0, 3.0]]
    scaled = group_normalised(rewards, divide_by_std=True)[0].tolist()
    assert scaled == pytest.approx([-0.755900, -0.377950, 1.133851], abs=1e-6)


def test_undivided_it_is_a_share_of_leave_one_out() -> None:
    """With k = 4 the own reward in the baseline makes the advantage 3/4 of the leave-one-out one."""
    rewards = torch.tensor([[0.0, 1.0, 3.0, 8.0], [2.0, -2.0, 5.0, 5.0]])
    assert torch.allclose(group_normalised(rewards, divide_by_std=False), 0.75 * leave_one_out(rewards))


def test_group_of_equal_rewards_stays_at_zero() -> None:
    """A prompt solved every time divides 0 by eps, not by 0; the prompt beside it is not affected."""
    scaled = group_normalised(torch.tensor([[3.0, 3.0], [1.0, 2.0]]), divide_by_std=True)
    assert scaled[0].tolist() == [0.0, 0.0]
    assert scaled[1, 1].item() == pytest.approx(0.5 / (0.5**0.5 + 1e-4), abs=1e-6)
    with pytest.raises(ValueError, match="group_normalised needs at least 2"):
        group_normalised(torch.ones(3, 1), divide_by_std=False)


def test_worked_token_returns() -> None:
    """Score advantage 2, KL to go .6, .5, .3 at beta 1/2: 1.7, 1.75, 1.85; an environment token's 7 nats do not count."""
    token_kl = torch.tensor([[0.1, 0.2, 0.3, NAN], [0.5, 7.0, -0.1, 0.0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0]]).bool()
    found = token_returns(torch.tensor([2.0, -1.0]), token_kl, mask, 0.5)
    assert found[0].tolist() == pytest.approx([1.7, 1.75, 1.85, 0.0])
    assert found[1].tolist() == pytest.approx([-1.2, 0.0, -0.95, 0.0])


def two_token_logps(theta: Tensor) -> Tensor:
    """Log-probs (4, 2) of both tokens of all outcomes (0,0), (0,1), (1,0), (1,1): 2 logits, then 2 after each first."""
    first, second = theta[:2].log_softmax(0), theta[2:].view(2, 2).log_softmax(-1)
    return torch.stack([torch.stack([first[a], second[a, b]]) for a in (0, 1) for b in (0, 1)])


def test_both_forms_of_rloo_have_the_gradient_of_the_objective() -> None:
    """Summed over every outcome of a two-token policy, both estimators give grad(E[score] - beta KL) exactly."""
    draw = torch.Generator().manual_seed(3)
    theta, reference_theta = torch.randn(2, 6, generator=draw, dtype=torch.float64).unbind()
    theta.requires_grad_()
    logps, reference = two_token_logps(theta), two_token_logps(reference_theta)
    scores, beta = torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), 0.3
    p = logps.sum(-1).exp()
    objective = (p * (scores - beta * (logps - reference).sum(-1))).sum()
    (exact,) = torch.autograd.grad(objective, theta, retain_graph=True)

    token_kl, weight = (logps - reference).detach(), p.detach()
    by_token = token_returns(scores - 0.7, token_kl, torch.ones(4, 2), beta)
    by_sequence = (scores - beta * token_kl.sum(-1) - 0.2)[:, None].expand(4, 2)
    for advantages in (by_token, by_sequence):
        estimate = (weight * (advantages * logps).sum(-1)).sum()
        (found,) = torch.autograd.grad(estimate, theta, retain_graph=True)
        assert torch.allclose(found, exact, atol=1e-12)


REWARDS, VALUES = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]])


def test_worked_gae() -> None:
    """gamma = lambda = 1/2. Errors 1, -.25, .5; advantages .5, -.25 + .25 * .5 = -.125, 1 + .25 * -.125 = .96875."""
    advantages, returns = gae(REWARDS, VALUES, torch.ones(1, 3), 0.5, 0.5)
    assert advantages.tolist() == [[0.96875, -0.125, 0.5]]
    assert returns.tolist() == [[1.46875, 0.875, 2.0]]


def test_gae_steps_over_environment_tokens() -> None:
    """The same three policy tokens with environment tokens between and after them have the same advantages."""
    at = torch.tensor([0, 3, 4])
    rewards, values, mask = torch.full((1, 6), NAN), torch.full((1, 6), NAN), torch.zeros(1, 6, dtype=torch.bool)
    rewards[:, at], values[:, at], mask[:, at] = REWARDS, VALUES, True
    advantages, returns = gae(rewards, values, mask, 0.5, 0.5)
    assert advantages.tolist() == [[0.96875, 0, 0, -0.125, 0.5, 0]]
    assert returns.tolist() == [[1.46875, 0, 0, 0.875, 2.0, 0]]


def test_gae_at_the_ends_of_lambda() -> None:
    """lambda 1 gives reward to go minus value (3 - .5, 2 - 1, 2 - 1.5); lambda 0 the errors of one step."""
    mask = torch.ones(1, 3)
    assert gae(REWARDS, VALUES, mask, 1.0, 1.0)[0].tolist() == [[2.5, 1.0, 0.5]]
    assert gae(REWARDS, VALUES, mask, 1.0, 0.0)[0].tolist() == [[1.5, 0.5, 0.5]]


def test_gae_gives_constants() -> None:
    """Neither result carries a gradient back to the value function it is compared with."""
    advantages, returns = gae(REWARDS, VALUES.clone().requires_grad_(), torch.ones(1, 3), 1.0, 0.95)
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_worked_whitening() -> None:
    """1, 3, 5 have mean 3 and variance 8/3: -1.2247, 0, 1.2247; with the mean kept 1.7753, 3, 4.2247."""
    values, mask = torch.tensor([[1.0, 3.0], [5.0, NAN]]), torch.tensor([[1, 1], [1, 0]]).bool()
    assert whiten(values, mask).flatten().tolist() == pytest.approx([-1.224745, 0.0, 1.224745, 0.0], abs=1e-6)
    kept = whiten(values, mask, shift_mean=False)
    assert kept.flatten().tolist() == pytest.approx([1.775255, 3.0, 4.224745, 0.0], abs=1e-6)


def test_values_that_are_all_alike_are_not_scaled() -> None:
    """Five everywhere whitens to 0, or stays 5 where the mean is kept."""
    values, mask = torch.full((2, 3), 5.0), torch.ones(2, 3)
    assert whiten(values, mask).tolist() == [[0.0] * 3] * 2
    assert whiten(values, mask, shift_mean=False).tolist() == [[5.0] * 3] * 2


def test_the_score_lands_on_the_last_policy_token() -> None:
    """Behind it stand padding or environment tokens; a row the policy wrote nothing of takes no score."""
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    expected = [[0, 0, 5, 0], [0, 0, 0, -2], [0, 0, 0, 0]]
    for kind in (mask.float(), mask.bool()):
        assert place_score(torch.tensor([5.0, -2.0, 7.0]), kind).tolist() == expected
