"""Collects the rows of one arm while it runs: columns of lanes, made into a table at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rlback.studies.protocol import EXPOSURES, INTEGRATED, Array, Evaluation, Mask
from rlback.studies.table import SCHEMA, table_of_columns

_MEASURED = (
    "gold", "proxy", "proxy_standardised", "kl", "kl_segment", "accuracy_on_policy", "accuracy_heldout", "spread",
    "reward_variance",
)  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What is the same in every row of a unit."""

    study: str
    world: str
    setting: str
    arm: str
    config_digest: str
    code_revision: str


@dataclass
class Recorder:
    """Rows so far. `seeds` (lanes,) gives each lane's seed."""

    names: Names
    seeds: Array
    _columns: dict[str, list[Array]] = field(default_factory=dict)
    _began: float = field(default_factory=time.process_time)

    def add(
        self,
        lanes: Mask,
        point: str,
        measured: Evaluation,
        *,
        exposure_kept: Array,
        exposure_all: Array,
        diverged: Mask,
        decisions: Array | str,
        costs: dict[str, Array],
        place: dict[str, Array | int],
        win_rate: tuple[Array, Array] | None = None,
        win_true: Array | None = None,
    ) -> None:
        """One row for every lane that is on. exposures: (lanes, 5, 2); costs and place: columns (lanes,)."""
        if not lanes.any():
            return
        n = len(lanes)
        spent = (time.process_time() - self._began) / n
        win, win_n = win_rate if win_rate is not None else (np.full(n, np.nan), np.zeros(n, dtype=np.int64))
        row: dict[str, Any] = {name: getattr(measured, name) for name in _MEASURED}
        unknown = np.full(n, np.nan)
        row |= {"win_true": unknown if win_true is None else win_true}
        for name in ("tail_index", "bad", "accuracy_implicit"):
            value = getattr(measured, name)
            row[name] = unknown if value is None else value
        row |= {**costs, **place, "seed": self.seeds, "seconds": spent, "point": point, "decision": decisions}
        row |= {"win_rate": win, "win_rate_n": win_n, "status": np.where(diverged, "diverged", "ok")}
        for which, exposure in (("kept", exposure_kept), ("all", exposure_all)):
            for i, name in enumerate(EXPOSURES):
                part, whole = exposure[:, i, 0], exposure[:, i, 1]
                row[f"mx_{name}_{which}"] = np.divide(part, whole, out=np.full(n, np.nan), where=whole > 0)
            # Nothing is summed where a method has no advantages.
            summed, of = exposure[:, INTEGRATED, 0], exposure[:, INTEGRATED, 1]
            row[f"mx_integrated_{which}"] = np.where(of > 0, summed, np.nan)
        for name, value in row.items():
            self._columns.setdefault(name, []).append(np.broadcast_to(np.asarray(value), (n,))[lanes])

    def table(self) -> pa.Table:
        """All rows in the schema."""
        columns: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        rows = len(columns["seed"])
        for name in ("study", "world", "setting", "arm", "config_digest", "code_revision"):
            columns[name] = [getattr(self.names, name)] * rows
        return table_of_columns({f.name: columns[f.name] for f in SCHEMA})
