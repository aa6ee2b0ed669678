"""Padding, masks and chunks of rows: what keeps padding out of every number.

A mask has the shape of the tokens it belongs to (b, t), bool or float zeros and ones: 1 for a token that counts, 0
for padding and for what an environment wrote. The ones need not be contiguous. Masks made here are float.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def pad_right(
    sequences: Sequence[Sequence[int]], pad_id: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Token lists as one block: ids (b, t) int64 and mask (b, t) float32, t the longest length."""
    lengths = torch.tensor([len(s) for s in sequences])
    width = int(lengths.max()) if len(sequences) else 0
    rows = [[*s, *[pad_id] * (width - len(s))] for s in sequences]
    ids = torch.tensor(rows, dtype=torch.long, device=device).reshape(len(sequences), width)
    mask = (torch.arange(width)[None, :] < lengths[:, None]).float().to(device)
    return ids, mask


def through_end(ids: Tensor, end_id: int) -> Tensor:
    """Mask (b, t) of the tokens up to and including the first end token of each row; all ones without one."""
    is_end = (ids == end_id).long()
    ends_before = is_end.cumsum(-1) - is_end
    return (ends_before == 0).float()


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the last axis of the values whose mask is 1; a non-finite value under mask 0 does no harm."""
    return torch.where(mask > 0, values, torch.zeros_like(values)).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (a scalar) over every entry whose mask is 1; 0 when there is none."""
    return masked_sum(values, mask).sum() / mask.sum().clamp(min=1)


def length_chunks(
    lengths: Sequence[int], max_padded: int, groups: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Indices 0..n-1, shortest first, cut into chunks of at most `max_padded` padded tokens each.

    A chunk's padded size is its count times its longest length; a single row longer than that gets a chunk of its own.
    With `groups`, one for each index, those of a group stay side by side, shortest first, in the place of the longest.
    """
    whose = groups or range(len(lengths))
    longest: dict[Hashable, int] = {}
    for group, length in zip(whose, lengths, strict=True):
        longest[group] = max(length, longest.get(group, 0))
    first = {group: number for number, group in enumerate(longest)}
    order = sorted(range(len(lengths)), key=lambda i: (longest[whose[i]], first[whose[i]], lengths[i]))
    chunks: list[list[int]] = []
    current: list[int] = []
    widest = 0
    for index in order:
        widest = max(widest, lengths[index])
        if current and (len(current) + 1) * widest > max_padded:
            chunks.append(current)
            current, widest = [], lengths[index]
        current.append(index)
    if current:
        chunks.append(current)
    return chunks
