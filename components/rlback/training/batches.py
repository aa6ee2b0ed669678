"""Which items a step trains on, and results over parts of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rlback.models.batching import in_parts
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


def over_parts(
    function: Callable[[list[int]], Tensor], prompts: Sequence[Tokens], completions: Sequence[Tokens], max_padded: int
) -> Tensor:
    """`function(rows) -> (b,)` over parts of all rows (`in_parts`), the results in the order of the rows.

    Gradients flow through. The result does not depend on `max_padded` but for rounding.
    """
    parts = in_parts(prompts, completions, max_padded)
    joined = torch.cat([function(part) for part in parts])
    order = torch.tensor([row for part in parts for row in part])
    return joined[torch.argsort(order).to(joined.device)]
