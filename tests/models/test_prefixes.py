"""Each prefix that something read depends on is one token to compute, and its gradient the sum over its places."""

from __future__ import annotations

import pytest
import torch

from rlback.models.prefixes import Prefixes


def read_everywhere(ids: list[list[int]]) -> Prefixes:
    """The prefixes of rows of which every place is read."""
    block = torch.tensor(ids)
    return Prefixes.of(block, *torch.ones_like(block).nonzero(as_tuple=True))


def as_rows(found: Prefixes, rows: int) -> list[list[int]]:
    """Which prefix stands at each place."""
    return found.numbers.view(rows, found.width).tolist()


def test_rows_that_begin_alike_share_what_they_begin_with() -> None:
    """Rows 5 6 7, 5 6 8 and 5 9 7 are one 5, two words after it (6, 9) and three last ones: six tokens of nine."""
    found = read_everywhere([[5, 6, 7], [5, 9, 7], [5, 6, 8]])
    assert sorted(found.tokens.tolist()) == [5, 6, 7, 7, 8, 9]
    first, second, third = (row[:3] for row in as_rows(found, 3))
    assert first[:2] == third[:2]
    assert first[0] == second[0]
    assert len({first[2], second[1], second[2], third[2]}) == 4  # the 7 after 5 9 is not the 7 after 5 6
    assert [found.tokens[i] for i in (*first, *second, *third)] == [5, 6, 7, 5, 9, 7, 5, 6, 8]


def test_what_differs_once_stays_apart() -> None:
    """1 2 3 and 4 2 3 end alike and share nothing."""
    assert len(read_everywhere([[1, 2, 3], [4, 2, 3]]).tokens) == 6


def test_what_nothing_read_depends_on_is_left_out() -> None:
    """Read at place 1 of the first row and 0 of the third: three tokens; the second row, and all behind, are not there."""
    found = Prefixes.of(torch.tensor([[1, 2, 3], [7, 8, 9], [4, 5, 6]]), torch.tensor([0, 2]), torch.tensor([1, 0]))
    assert found.tokens[found.read].tolist() == [2, 4]
    assert sorted(found.tokens.tolist()) == [1, 2, 4]


def test_a_row_that_ends_inside_another_is_no_token_more() -> None:
    """1 2 read at its end, beside 1 2 3, whatever pads it."""
    for pad in (0, 3):
        found = Prefixes.of(torch.tensor([[1, 2, pad], [1, 2, 3]]), torch.tensor([0, 1]), torch.tensor([1, 2]))
        assert found.tokens.tolist() == [1, 2, 3]
        assert found.tokens[found.read].tolist() == [2, 3]


def test_rows_without_anything_in_common_stay_as_they_are() -> None:
    """Two rows of sixteen tokens that differ in the first: nothing is moved."""
    ids = torch.arange(32).view(2, 16)
    found = Prefixes.of(ids.flip(0), *torch.ones_like(ids).nonzero(as_tuple=True))
    assert found.plain
    assert found.tokens.tolist() == ids.flip(0).flatten().tolist()
    assert found.numbers.tolist() == found.homes.tolist() == list(range(32))


@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_rows_are_as_wide_as_attention_likes(length: int) -> None:
    """A multiple of sixteen, with every token at its place."""
    found = read_everywhere([[2] * length])
    assert found.width == (16 if length <= 16 else 32)
    assert found.numbers[:length].tolist() == list(range(length))


def test_values_go_to_their_places_and_gradients_come_back_as_sums() -> None:
    """Rows 1 2 and 1 3: the value of 1 stands twice, and the gradients of both places add up."""
    found = read_everywhere([[1, 2], [1, 3]])
    values = torch.tensor([[1.0], [2.0], [3.0]])
    rows = found.laid_out(values)
    assert rows.shape == (2, 16, 1)
    assert rows[:, :2, 0].tolist() == [[1.0, 2.0], [1.0, 3.0]]
    gradient = torch.zeros(2, 16, 1)
    gradient[:, :2, 0] = torch.tensor([[10.0, 20.0], [0.5, 30.0]])
    assert found.added_up(gradient)[:, 0].tolist() == [10.5, 20.0, 30.0]
    assert found.gathered(rows)[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_place_that_the_rows_do_not_have_is_refused() -> None:
    """Rows of three tokens are laid out sixteen wide, and have no place 3 all the same."""
    with pytest.raises(IndexError, match="places 1 to 3 of rows of 3 tokens"):
        Prefixes.of(torch.tensor([[1, 2, 3]]), torch.tensor([0, 0]), torch.tensor([1, 3]))
