"""Random numbers for several seeds at once, each from a generator of its own.

A seed's numbers do not depend on which other seeds are computed beside it, so that a study cut into other chunks,
or resumed, gives the same table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlback.records import seed_of


class SeedwiseDraws:
    """Arrays with the seeds first; `size` names that axis too. `key` is the purpose and place of the draws."""

    def __init__(self, seeds: Sequence[int], *key: str | int) -> None:
        self._each = [np.random.default_rng(seed_of("study", seed, *key)) for seed in seeds]

    def random(self, size: tuple[int, ...], /) -> NDArray[np.float64]:
        """Uniform on [0, 1)."""
        return np.stack([g.random(self._rest(size)) for g in self._each])

    def integers(self, high: int, /, *, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Whole numbers from 0 to high - 1."""
        return np.stack([g.integers(high, size=self._rest(size)) for g in self._each])

    def standard_normal(self, size: tuple[int, ...], /) -> NDArray[np.float64]:
        """Mean 0, standard deviation 1."""
        return np.stack([g.standard_normal(self._rest(size)) for g in self._each])

    def _rest(self, size: tuple[int, ...]) -> tuple[int, ...]:
        if size[0] != len(self._each):
            raise ValueError(f"the first axis holds {len(self._each)} seeds, not {size[0]}")
        return size[1:]
