"""Which items a step trains on."""

from __future__ import annotations

import torch

from rlback.training.batches import epoch_slice, over_parts


def test_each_pass_meets_every_item_once_in_its_own_order() -> None:
    """Ten items at four a step: five steps are two passes, each a permutation, in different orders."""
    drawn = [i for step in range(5) for i in epoch_slice(10, 4, seed=1, step=step)]
    first, second = drawn[:10], drawn[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_a_batch_may_be_larger_than_the_data() -> None:
    """Seven of three items: two whole passes and one more item."""
    drawn = epoch_slice(3, 7, seed=1, step=0)
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7


def test_another_seed_is_another_order() -> None:
    """The order depends on the seed alone."""
    orders = [epoch_slice(20, 20, seed=seed, step=0) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_results_come_back_in_the_order_of_the_rows() -> None:
    """Rows of lengths 5, 1, 3 are worked on shortest first in parts of one, and returned as they came."""
    seen: list[list[int]] = []

    def lengths_of(rows: list[int]) -> torch.Tensor:
        seen.append(rows)
        return torch.tensor([10.0 * row for row in rows])

    assert over_parts(lengths_of, [[1], [2], [3]], [[9] * 4, [], [9] * 2], max_padded=1).tolist() == [0.0, 10.0, 20.0]
    assert seen == [[1], [2], [0]]
