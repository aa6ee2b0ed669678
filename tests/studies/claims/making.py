"""Hand-made tables of results in which every claim's verdict is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from rlback.studies.table import COLUMNS, joined, table_of_columns

SEEDS = 8
_TEXT = ("study", "world", "setting", "arm", "point", "decision", "status", "config_digest", "code_revision")


class Rows:
    """Rows of a table, added arm by arm; what is not given is 0, or empty text."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, setting: str, arm: str, seed: int, point: str, **values: object) -> None:
        row: dict[str, object] = {name: "" if name in _TEXT else 0 for name in COLUMNS}
        row |= {"study": "made", "world": "bandit", "setting": setting, "arm": arm, "seed": seed, "point": point}
        row |= {"round": 1, "attempt": 1, "decision": "kept" if point != "step" else "none", "status": "ok", **values}
        self.rows.append(row)

    def path(
        self, setting: str, arm: str, d: Sequence[float], *, round_: int = 1, **columns: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Step rows at distances d, of every seed with a little noise of its own, and the kept row of their end."""
        for seed in range(SEEDS):
            shift = 0.01 * np.random.default_rng(seed).standard_normal()
            made = {name: np.asarray(f(np.asarray(d))) + shift * (name == "gold") for name, f in columns.items()}
            for i, x in enumerate(d):
                values = {name: float(v[i]) for name, v in made.items()} | {"kl": x**2, "step": i + 1, "round": round_}
                last = i == len(d) - 1
                self.add(setting, arm, seed, "candidate" if last else "step", **values)
                if last:
                    self.add(setting, arm, seed, "kept", **values)

    def ends(self, setting: str, arm: str, rounds: Sequence[dict[str, float]]) -> None:
        """Candidate and kept rows of each round, the same for all seeds but for a little noise in gold."""
        for seed in range(SEEDS):
            for r, values in enumerate(rounds, start=1):
                noise = 0.01 * np.random.default_rng(100 * r + seed).standard_normal()
                for point in ("candidate", "kept"):
                    found = {**values, "gold": values.get("gold", 0.0) + noise, "round": r, "step": 20}
                    self.add(setting, arm, seed, point, **found)

    def table(self) -> pa.Table:
        return joined([table_of_columns({name: [row[name] for row in self.rows] for name in COLUMNS})])
