"""Rows of a study made by hand, for tables whose every figure is known."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rlback.studies.config import AnalysisKeys
from rlback.studies.reading import Results
from rlback.studies.table import COLUMNS

#: Place and cost of a row where a test does not say: the base policy before anything was spent.
_BLANK: dict[str, Any] = dict.fromkeys(COLUMNS) | {
    "setting": "s", "arm": "a", "seed": 0, "round": 0, "attempt": 0, "step": 0, "point": "kept", "decision": "none",
    "status": "ok", "labels_reward": 0, "labels_gate": 0, "labels": 0, "updates": 0, "gold": 0.0, "win_rate_n": 0,
}  # fmt: skip


def made(rows: list[dict[str, Any]], arms: dict[str, Any] | None = None, **keys: Any) -> Results:
    frame = pd.DataFrame([_BLANK | row for row in rows])
    numbers = [n for n in frame if n.startswith("mx_") or n in ("kl", "win_rate", "win_true", "spread", "tail_index")]
    return Results(frame.astype(dict.fromkeys(numbers, float)), AnalysisKeys(**keys), 50, arms or {})


def attempt(seed: int, round_: int, number: int, total: int, gold: float, kept: float, **more: Any) -> list[dict[str, Any]]:
    """A candidate and the kept row after it; it was approved where its gold is what is kept, unless `decision` says so.
    total: attempts so far, each of 4 updates, 10 labels for reward models and 5 of the gate.
    """
    spent = {"updates": 4 * total, "labels_reward": 10 * total, "labels_gate": 5 * total, "labels": 15 * total}
    place = {"seed": seed, "round": round_, "attempt": number, "decision": "kept" if gold == kept else "declined"} | spent | more
    return [place | {"point": "candidate", "gold": gold}, place | {"point": "kept", "gold": kept, "status": "ok"}]
