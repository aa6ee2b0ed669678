"""A study's table as arrays by seed. What is not there is said by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Array = NDArray[np.float64]


class NotMeasured(Exception):
    """A claim cannot be tested on this table, for the reason given."""


class Evidence:
    """Runs of a table. Every reading gives the seeds that all the arms asked for have, in the same order."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def _index(self) -> dict[tuple[str, str], pa.Table]:
        settings, arms = self.table["setting"], self.table["arm"]
        return {
            (s, a): self.table.filter(pc.and_(pc.equal(settings, s), pc.equal(arms, a)))
            for s, a in sorted(set(zip(settings.to_pylist(), arms.to_pylist(), strict=True)))
        }

    def has(self, setting: str, arm: str) -> bool:
        """Whether there is a run of it."""
        return (setting, arm) in self._index

    def rows(self, setting: str, arm: str) -> pa.Table:
        """NotMeasured where the table has no run of it."""
        try:
            return self._index[(setting, arm)]
        except KeyError:
            raise NotMeasured(f"no run of arm {arm} in setting {setting}") from None

    def seeds(self, *runs: tuple[str, str]) -> list[int]:
        """Seeds that all of these (setting, arm) have. NotMeasured for fewer than four: no bootstrap says much then."""
        common = set.intersection(*(set(self.rows(*run)["seed"].to_pylist()) for run in runs))
        if len(common) < 4:
            raise NotMeasured(f"{len(common)} seeds are common to {', '.join('/'.join(run) for run in runs)}; 4 are needed")
        return sorted(common)

    def final(self, column: str, *runs: tuple[str, str]) -> list[Array]:
        """The column at the end of each of the runs: the last kept row, (seeds,) each, seeds paired."""
        seeds = self.seeds(*runs)
        return [self._last(self.rows(*run), column, seeds) for run in runs]

    def by_round(self, column: str, setting: str, arm: str, rounds: int, seeds: Sequence[int] | None = None) -> Array:
        """The column at the end of rounds 1 to `rounds`, (seeds, rounds).

        NotMeasured where no run has that many. A run that ended before is NaN from there on.
        """
        rows = self.rows(setting, arm)
        seeds = self.seeds((setting, arm)) if seeds is None else seeds
        if not len(rows) or pc.max(rows["round"]).as_py() < rounds:
            raise NotMeasured(f"arm {arm} in setting {setting} has fewer than {rounds} rounds")
        return np.stack(
            [self._last(rows.filter(pc.equal(rows["round"], r)), column, seeds) for r in range(1, rounds + 1)], 1
        )

    def curve(
        self, columns: Sequence[str], setting: str, arm: str, *, round_: int = 1, seeds: Sequence[int] | None = None
    ) -> tuple[Array, list[Array]]:
        """Steps (points,) and the columns, (seeds, points) each, along the first attempt of a round.

        Points that every seed has; NotMeasured for fewer than three of them.
        """
        rows = self.rows(setting, arm)
        seeds = self.seeds((setting, arm)) if seeds is None else seeds
        wanted = pc.and_(pc.equal(rows["round"], round_), pc.equal(rows["attempt"], 1))
        rows = rows.filter(pc.and_(wanted, pc.is_in(rows["point"], pa.array(["step", "candidate"]))))
        at = {}
        for index, key in enumerate(zip(rows["seed"].to_pylist(), rows["step"].to_pylist(), strict=True)):
            at[key] = index
        steps = sorted({s for _, s in at if all((seed, s) in at for seed in seeds)})
        if len(steps) < 3:
            raise NotMeasured(f"arm {arm} in setting {setting} has {len(steps)} points along round {round_}; 3 are needed")
        place = np.array([[at[(seed, s)] for s in steps] for seed in seeds])
        return np.array(steps, dtype=float), [_numbers(rows, c)[place] for c in columns]

    def rounds(self, setting: str, arm: str) -> int:
        """The highest round that any run reached."""
        return int(pc.max(self.rows(setting, arm)["round"]).as_py())

    def at_candidate(self, column: str, setting: str, arm: str, seeds: Sequence[int]) -> Array:
        """The column at the end of the first attempt, (seeds,), where everything is measured."""
        rows = self.rows(setting, arm)
        first = pc.and_(pc.equal(rows["round"], 1), pc.equal(rows["attempt"], 1))
        rows = rows.filter(pc.and_(first, pc.equal(rows["point"], "candidate")))
        values = dict(zip(rows["seed"].to_pylist(), _numbers(rows, column), strict=True))
        return np.array([values.get(seed, np.nan) for seed in seeds])

    def _last(self, rows: pa.Table, column: str, seeds: Sequence[int]) -> Array:
        """Value of each seed's last kept row; NaN where it has none."""
        kept = rows.filter(pc.equal(rows["point"], "kept"))
        latest: dict[int, tuple[tuple[int, int], int]] = {}
        order = zip(kept["seed"].to_pylist(), kept["round"].to_pylist(), kept["attempt"].to_pylist(), strict=True)
        for index, (seed, round_, attempt) in enumerate(order):
            if seed not in latest or latest[seed][0] < (round_, attempt):
                latest[seed] = ((round_, attempt), index)
        values = _numbers(kept, column)
        return np.array([values[latest[s][1]] if s in latest else np.nan for s in seeds])


def _numbers(rows: pa.Table, column: str) -> Array:
    return np.array([np.nan if v is None else v for v in rows[column].to_pylist()], dtype=float)
