"""Falls: how often an arm keeps a policy clearly worse than the base, and whether it gets out of it."""

from __future__ import annotations

import math
from typing import Any

from rlback.studies.reading import Results, Table

#: Gold, in standard deviations of the base policy, below which a policy has fallen: clearly wrong, as in MX_false.
FALLEN = -0.5


def falls(results: Results) -> Table:
    """Kept policies and candidates below FALLEN, arm by arm; runs that kept one; and how many were above the base a round later.

    `p`: Fisher's exact test, two-sided, of such runs of the arm and of the primary one, as if they were not paired by seed.
    """
    from scipy.stats import fisher_exact  # half a second, for one table

    rows = []
    for setting in results.settings:
        mine: list[dict[str, Any]] = []
        for arm in results.methods(setting):
            kept = results.of(setting, arm, "kept")
            kept = kept[(kept["round"] > 0) & (kept["decision"] == "kept")]
            tried = results.of(setting, arm, "candidate")
            row: dict[str, Any] = {"setting": setting, "arm": arm, "kept": len(kept), "fallen": 0, "at the end": 0}
            row |= {"with a round after": 0, "mended in it": 0}
            row |= {"runs": results.of(setting, arm, "kept")["seed"].nunique(), "runs with one": 0}
            for _, run in kept.groupby("seed"):
                gold = run["gold"].to_numpy(float)
                low = gold < FALLEN
                row["fallen"] += int(low.sum())
                row["at the end"] += int(low[-1])
                row["runs with one"] += int(low.any())
                row["with a round after"] += int(low[:-1].sum())
                row["mended in it"] += int((low[:-1] & (gold[1:] > 0)).sum())
            fallen = (tried["gold"] < FALLEN) | (tried["status"] == "diverged")
            declined = tried["decision"] == "declined"
            row |= {"candidates": len(tried), "candidates fallen": int(fallen.sum()), "declined": int(declined.sum())}
            mine.append(row | {"fallen declined": int((fallen & declined).sum()), "lowest kept": float(kept["gold"].min())})
        primary = next((row for row in mine if row["arm"] == results.keys.primary), None)
        for row in mine if primary else []:
            counts = [[r["runs with one"], r["runs"] - r["runs with one"]] for r in (row, primary)]
            row["p"] = math.nan if row is primary else float(fisher_exact(counts).pvalue)
        rows += mine
    note = (
        f"fallen: gold below {FALLEN:g}".replace("-", "−") + "; kept: policies kept at the end of a round, of all seeds; mended: "
        "gold above the base's after the next round; runs with one: that kept a fallen policy; a candidate that diverged has "
        f"fallen; lowest kept: of all seeds; p: Fisher's exact test of such runs, against {results.keys.primary}'s"
    )
    return Table("falls", "Falls kept, and mended", note, rows)
