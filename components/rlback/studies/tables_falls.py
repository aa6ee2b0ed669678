"""Falls: how often an arm keeps a policy clearly worse than the base, and whether it gets out of it."""

from __future__ import annotations

from typing import Any

from rlback.studies.reading import Results, Table

#: Gold, in standard deviations of the base policy, below which a policy has fallen: clearly wrong, as in MX_false.
FALLEN = -0.5


def falls(results: Results) -> Table:
    """Kept policies and candidates below FALLEN, arm by arm, and how many were above the base a round later."""
    rows = []
    for setting in results.settings:
        for arm in results.methods(setting):
            kept = results.of(setting, arm, "kept")
            kept = kept[(kept["round"] > 0) & (kept["decision"] == "kept")]
            tried = results.of(setting, arm, "candidate")
            row: dict[str, Any] = {"setting": setting, "arm": arm, "kept": len(kept), "fallen": 0, "at the end": 0}
            row |= {"with a round after": 0, "mended in it": 0}
            for _, run in kept.groupby("seed"):
                gold = run["gold"].to_numpy(float)
                low = gold < FALLEN
                row["fallen"] += int(low.sum())
                row["at the end"] += int(low[-1])
                row["with a round after"] += int(low[:-1].sum())
                row["mended in it"] += int((low[:-1] & (gold[1:] > 0)).sum())
            fallen = (tried["gold"] < FALLEN) | (tried["status"] == "diverged")
            row |= {"candidates": len(tried), "candidates fallen": int(fallen.sum())}
            rows.append(row | {"lowest kept": float(kept["gold"].min())})
    note = (
        f"fallen: gold below {FALLEN:g}".replace("-", "−") + "; kept: policies kept at the end of a round, of all seeds; mended: "
        "gold above the base's after the next round; a candidate that diverged has fallen; lowest kept: of all seeds"
    )
    return Table("falls", "Falls kept, and mended", note, rows)
