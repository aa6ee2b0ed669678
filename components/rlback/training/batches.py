"""Which items a step trains on, and how its sequences are grouped so that little padding is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rlback.maths.masking import length_chunks
from rlback.records import seed_of

Tokens = Sequence[int]


def epoch_slice(count: int, size: int, seed: int, step: int) -> list[int]:
    """Indices of one step: `size` consecutive entries of an endless row of shuffled passes over the items.

    Every pass (epoch) is its own permutation, so each item comes once per pass; a batch may span two passes.
    """
    indices: list[int] = []
    position = step * size
    while len(indices) < size:
        epoch, offset = divmod(position + len(indices), count)
        order = permutation(count, seed_of(seed, "epoch", epoch))
        indices.extend(order[offset : offset + size - len(indices)])
    return indices


@lru_cache(maxsize=4)
def permutation(count: int, seed: int) -> tuple[int, ...]:
    """A shuffled 0..count-1, by `seed`."""
    return tuple(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


def total_lengths(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[int]:
    """Prompt plus completion tokens of each row."""
    return [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]


def by_length(function: Callable[[list[int]], Tensor], lengths: Sequence[int], max_padded: int) -> Tensor:
    """`function(rows) -> (b,)` over length-sorted parts of all rows, the results in the order of the rows.

    Gradients flow through. The result does not depend on `max_padded` but for rounding.
    """
    parts = length_chunks(lengths, max_padded)
    joined = torch.cat([function(part) for part in parts])
    order = torch.tensor([row for part in parts for row in part])
    return joined[torch.argsort(order).to(joined.device)]
