"""Data-parallel training: several processes share each step's rows and end with one process's weights.

Every process holds the whole model, data and settings and draws the same random numbers; only the passes through the
models are shared out. Losses are divided by the totals of the whole batch (maths/losses.py: aggregate), so adding the
processes' gradients up gives the gradient of one process, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process among `size`, numbered `rank` from 0. Alone there is nothing to communicate."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> Share:
        """The share torch.distributed knows of; alone where no process group was set up."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows that this process computes; every row is computed by one process."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def block(self, count: int) -> slice:
        """The consecutive part of 0..count-1 of this process; the parts follow one another by rank."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def add_up(self, parameters: Iterable[nn.Parameter], numbers: Sequence[float]) -> list[float]:
        """Sums gradients in place, and `numbers`, over the processes."""
        if self.size == 1:
            return list(numbers)
        gradients = []
        for parameter in parameters:
            # A process whose rows touch a parameter not at all must still take part in the sum.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        total = torch.tensor(numbers, dtype=torch.float64, device=flat.device)
        dist.all_reduce(total)
        return total.tolist()

    def add_up_tensor(self, values: Tensor) -> None:
        """Sums a tensor in place over the processes."""
        if self.size > 1:
            dist.all_reduce(values)

    def gather(self, part: Tensor, width: int | None = None, fill: float = 0) -> Tensor:
        """The parts (n, ...) of all processes, joined by rank along the first axis.

        `width`: pad the second axis to this, where parts have different ones.
        """
        if self.size == 1:
            return part
        if width is not None and part.shape[1] < width:
            part = nn.functional.pad(part, (0, width - part.shape[1]), value=fill)
        counts = self.all_ints(len(part))
        padded = part.new_zeros(max(counts), *part.shape[1:], dtype=torch.int64 if part.dtype == torch.bool else part.dtype)
        padded[: len(part)] = part
        parts = [torch.zeros_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        joined = torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)])
        return joined.to(part.dtype)

    def all_ints(self, value: int) -> list[int]:
        """One whole number of each process, by rank."""
        if self.size == 1:
            return [value]
        mine = torch.tensor([value])
        everyone = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return [int(v) for v in everyone]


ALONE = Share()
