"""Padding, end-token masks and chunks of rows."""

from __future__ import annotations

import torch

from rlback.maths.masking import length_chunks, masked_mean, masked_sum, pad_right, through_end


def test_pad_right_fills_up_to_the_longest() -> None:
    """Rows of 3 and 1 tokens become a 2x3 block whose mask counts 3 and 1."""
    ids, mask = pad_right([[5, 6, 7], [8]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_real_token_equal_to_the_pad_id_still_counts() -> None:
    """The mask comes from the lengths: a pad id inside a row is a token like any other."""
    _, mask = pad_right([[0, 0], [4]], pad_id=0)
    assert mask.tolist() == [[1, 1], [1, 0]]


def test_through_end_keeps_the_end_token_and_drops_what_follows() -> None:
    """With end id 2: the first 2 counts, later tokens do not; a row without it counts whole."""
    ids = torch.tensor([[7, 2, 5, 2], [2, 7, 7, 7], [7, 7, 7, 7]])
    assert through_end(ids, 2).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_masked_values_may_be_anything() -> None:
    """An infinity or NaN under mask 0 leaves the sum 3 + 4 = 7 and the mean 3.5 alone."""
    values = torch.tensor([[3.0, float("inf")], [4.0, float("nan")]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert masked_sum(values, mask).tolist() == [3.0, 4.0]
    assert masked_mean(values, mask).item() == 3.5
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0


def test_length_chunks_cover_every_row_once_and_keep_to_the_size() -> None:
    """Lengths 9,2,3,2,8 at 10 padded tokens: [2,2,3] pads to 9; 8 and 9 go alone, as longer rows do."""
    lengths = [9, 2, 3, 2, 8]
    assert [[lengths[i] for i in chunk] for chunk in length_chunks(lengths, 10)] == [[2, 2, 3], [8], [9]]
    assert sorted(i for chunk in length_chunks(lengths, 1) for i in chunk) == [0, 1, 2, 3, 4]
    assert len(length_chunks(lengths, 1)) == 5


def test_length_chunks_keep_a_group_together() -> None:
    """Groups a (lengths 2, 6), b (4, 3) and c (5), by the longest of each: b, c, a; a cut may still fall inside one."""
    lengths, groups = [2, 4, 6, 3, 5], "abab" + "c"
    assert length_chunks(lengths, 1000, groups) == [[3, 1, 4, 0, 2]]
    assert length_chunks(lengths, 10, groups) == [[3, 1], [4, 0], [2]]


def test_length_chunks_count_the_longest_row_of_a_chunk() -> None:
    """A short row after a long one of the group before is padded as far: 2, 6 and 3 of the next are above 17 tokens."""
    assert length_chunks([6, 2, 3, 6], 17, "aabb") == [[1, 0], [2, 3]]
    assert length_chunks([6, 2, 3, 6], 18, "aabb") == [[1, 0, 2], [3]]
