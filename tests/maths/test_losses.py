"""The likelihood loss."""

from __future__ import annotations

import torch

from rlback.maths.losses import negative_log_likelihood

LOGPS = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -0.5, -0.5]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


def test_a_batch_worked_by_hand() -> None:
    """Five masked tokens of -1, -2 and three times -0.5: 4.5 nats over 5 tokens."""
    assert abs(negative_log_likelihood(LOGPS, MASK, tokens=5).item() - 0.9) < 1e-7


def test_more_padding_changes_nothing() -> None:
    """Two further padded columns, of any value, leave the loss as it was."""
    logps = torch.cat([LOGPS, torch.full((2, 2), float("-inf"))], 1)
    mask = torch.cat([MASK, torch.zeros(2, 2)], 1)
    assert abs(negative_log_likelihood(logps, mask, tokens=5).item() - 0.9) < 1e-7
