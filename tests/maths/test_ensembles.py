"""One score from an ensemble's members."""

from __future__ import annotations

import pytest
import torch

from rlback.maths import ensembles

SCORES = torch.tensor([[1.0, 4.0], [3.0, 4.0], [2.0, 4.0]])


def test_worked_members() -> None:
    """Scores 1, 3, 2: mean 2, lowest 1, variance 2/3; weighed by 1/2: 2 - 1/3. Members that agree on 4 make it 4."""
    assert ensembles.mean(SCORES).tolist() == [2.0, 4.0]
    assert ensembles.worst_case(SCORES).tolist() == [1.0, 4.0]
    assert ensembles.uncertainty_weighted(SCORES, 0.5).tolist() == pytest.approx([5 / 3, 4.0])


def test_one_enthusiast_moves_the_mean_only() -> None:
    """A member that raises its score from 3 to 30 raises the mean; the cautious rules do not follow."""
    hacked = SCORES.clone()
    hacked[1, 0] = 30.0
    assert ensembles.mean(hacked)[0] == 11
    assert ensembles.worst_case(hacked)[0] == 1
    assert ensembles.uncertainty_weighted(hacked, 0.5)[0] < ensembles.uncertainty_weighted(SCORES, 0.5)[0]


def test_a_single_member_is_taken_at_its_word() -> None:
    """One member has no variance and is its own mean and minimum."""
    for rule in (ensembles.mean, ensembles.worst_case, lambda s: ensembles.uncertainty_weighted(s, 3.0)):
        assert rule(SCORES[:1]).tolist() == [1.0, 4.0]
