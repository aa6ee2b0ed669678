"""Which tokens of a block of rows have to be computed: the distinct prefixes that something read depends on, each once.

In a causal model the state of a token depends on the tokens up to it and on nothing else. Where rows begin alike they
therefore have the same states, and what stands behind the last place that is read changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: Rows are as wide as a multiple of this: attention's forward pass over 12 x 4 x 80 x 32 takes two thirds of the time of
#: 12 x 4 x 79 x 32 (torch 2.13, AVX-512, one thread).
_ROW_MULTIPLE = 16


@dataclass(frozen=True)
class Prefixes:
    """The n prefixes of b rows; a prefix goes by its number, and a place in the rows is row * width + column.

    tokens: (n,) the last id of each. numbers: (b * width,) the prefix that ends at a place; where nothing that is read
    depends on it, the row's last one (of a row that is not read at all, any), so that what is not finite stays in its row.
    homes: (n,) one place at which each ends. read: (m,) numbers of the prefixes that were asked for. plain: n is
    b * width and every place has its own, in order.
    """

    tokens: Tensor
    numbers: Tensor
    homes: Tensor
    read: Tensor
    width: int
    plain: bool

    @classmethod
    def of(cls, ids: Tensor, row: Tensor, place: Tensor) -> Prefixes:
        """Those of ids (b, s) that end at (row[i], place[i]), m of them and at least one, and all that begin these.

        IndexError for a place that the rows do not have.
        """
        device, (count, length) = ids.device, ids.shape
        ids, row, place = ids.cpu(), row.cpu(), place.cpu()
        if not 0 <= int(place.min()) <= int(place.max()) < length:
            raise IndexError(f"places {int(place.min())} to {int(place.max())} of rows of {length} tokens")
        ends = torch.full((count,), -1).scatter_reduce(0, row, place, "amax")
        kept = torch.arange(length) <= ends[:, None]
        lines = ids.masked_fill(~kept, -1)
        # In the order of words in a dictionary a row shares with those before it what it shares with the last of them.
        order = torch.tensor(sorted(range(count), key=lines.tolist().__getitem__))
        shared = _shared(lines[order], kept[order])
        if not shared.any():
            order = torch.arange(count)
        own = kept[order] & ~shared
        first = torch.arange(count)[:, None].masked_fill(shared, 0).cummax(0).values
        counted = (own.flatten().cumsum(0) - 1).view(count, length).gather(0, first)
        width = -(-length // _ROW_MULTIPLE) * _ROW_MULTIPLE
        last = torch.arange(width).minimum(ends.clamp(min=0)[order][:, None])
        numbers = torch.empty(count, width, dtype=torch.long)
        numbers[order] = counted.gather(1, last).clamp(min=0)
        homes = (order[:, None] * width + torch.arange(length))[own]
        read = numbers[row, place]
        tokens, plain = lines[order][own], len(homes) == numbers.numel() and bool((homes.diff() == 1).all())
        return cls(tokens.to(device), numbers.flatten().to(device), homes.to(device), read.to(device), width, plain)

    def laid_out(self, x: Tensor) -> Tensor:
        """Values of prefixes (n, d) at their places in the rows, (b, width, d)."""
        rows = x if self.plain else x.index_select(0, self.numbers)
        return rows.view(-1, self.width, x.shape[-1])

    def asked(self, x: Tensor) -> Tensor:
        """Values of prefixes (n, d) to those of the prefixes that were asked for (m, d)."""
        # As a look-up: gradients of one prefix are added up in the same order every time, on a GPU too.
        return F.embedding(self.read, x)

    def added_up(self, rows: Tensor) -> Tensor:
        """Gradients by place (b, width, d) to those of prefixes (n, d), each the sum over its places: `laid_out` turned round."""
        flat = rows.flatten(0, 1)
        if self.plain:
            return flat
        return torch.ops.aten.embedding_dense_backward(flat, self.numbers, len(self.tokens), -1, False)

    def gathered(self, rows: Tensor) -> Tensor:
        """What rows (b, width, d) hold at the prefixes' homes, (n, d)."""
        flat = rows.flatten(0, 1)
        return flat if self.plain else flat.index_select(0, self.homes)


def _shared(lines: Tensor, kept: Tensor) -> Tensor:
    """(b, s): where the row before has the same prefix; of sorted rows, as far as they are kept."""
    shared = torch.zeros_like(kept)
    shared[1:] = (lines[1:] == lines[:-1]).cumprod(1).bool() & kept[1:]
    return shared
