"""Policy-gradient and likelihood losses."""

from __future__ import annotations

import torch

from rlback.maths.losses import negative_log_likelihood, policy_gradient

LOGPS = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -0.5, -0.5]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
ADVANTAGES = torch.tensor([2.0, -2.0])


def test_worked_batch() -> None:
    """Sums -3 and -1.5 times 2 and -2 give -6 + 3 = -3; negated over 2 completions x 20 tokens: 0.075."""
    loss = policy_gradient(LOGPS, MASK, ADVANTAGES, length_normaliser=20, completions=2)
    assert abs(loss.item() - 0.075) < 1e-7


def test_more_padding_changes_nothing() -> None:
    """Two further padded columns, of any value, leave both losses as they were."""
    logps = torch.cat([LOGPS, torch.full((2, 2), float("-inf"))], 1)
    mask = torch.cat([MASK, torch.zeros(2, 2)], 1)
    loss = policy_gradient(logps, mask, ADVANTAGES, length_normaliser=20, completions=2)
    assert abs(loss.item() - 0.075) < 1e-7
    assert abs(negative_log_likelihood(logps, mask, tokens=5).item() - 0.9) < 1e-7


def test_the_gradient_of_the_parts_is_that_of_the_whole() -> None:
    """Eight parts of one completion accumulate the gradient of one part of eight."""
    draw = torch.Generator().manual_seed(1)
    base = torch.randn(8, 5, generator=draw)
    mask = (torch.rand(8, 5, generator=draw) > 0.3).float()
    advantages = torch.randn(8, generator=draw)
    gradients = []
    for size in (8, 1):
        logps = base.clone().requires_grad_()
        for at in range(0, 8, size):
            part = slice(at, at + size)
            policy_gradient(logps[part], mask[part], advantages[part], length_normaliser=20, completions=8).backward()
        gradients.append(logps.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)


def test_a_good_completion_is_made_likelier() -> None:
    """Descending the loss raises the log-probs of positive advantage and lowers those of negative."""
    logps = LOGPS.clone().requires_grad_()
    policy_gradient(logps, MASK, ADVANTAGES, length_normaliser=20, completions=2).backward()
    assert (logps.grad[0, :2] < 0).all()
    assert (logps.grad[1] > 0).all()
    assert logps.grad[0, 2] == 0
