"""Leave-one-out advantages and their scaling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlback.maths.advantages import leave_one_out, standardise


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
