"""What a study's table says: final gold, labels, updates and exposure of each arm; taxes; how gold bends.

Rows of different configurations or code are never averaged: `all_tables` refuses them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rlback.errors import DataError
from rlback.maths.aggregate import interquartile_mean, paired_bootstrap
from rlback.maths.overoptimisation import FORMS, fit
from rlback.maths.tax import Passage, bootstrap_tax, clopper_pearson, expected_running_time, first_passage
from rlback.studies.config import AnalysisKeys

_MX = ("mx_sign_kept", "mx_false_kept", "mx_bad_kept", "mx_flow_kept")
#: Arms whose taxes are shown, besides the references.
_TAXED = (
    "rollback-once", "rollback-until-approved", "rollback-bound", "rollback-ladder", "receding-0.5", "gate-random",
    "vanilla-up-front",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of plain values under a title; `note` says what a reader must know."""

    name: str
    title: str
    note: str
    rows: list[dict[str, Any]]


def all_tables(table: pa.Table, keys: AnalysisKeys, *, draws: int | None = None) -> list[Table]:
    """Every table, in the order shown. DataError for results of several configurations or code revisions."""
    one_origin(table)
    frame = table.to_pandas()
    kept = frame[frame["point"] == "kept"]
    draws = draws or keys.draws
    tables = [_finals(kept, keys, draws)]
    tables += [_taxes(kept, keys, cost, draws) for cost in ("labels", "updates")]
    return [*tables, _bends(frame)]


def one_origin(table: pa.Table) -> None:
    """Refuses to average what does not belong together.

    Raises:
        DataError: an arm has rows of two configurations in one setting, or the rows come from two code revisions.
    """
    revisions = sorted(set(table["code_revision"].to_pylist()))
    if len(revisions) > 1:
        raise DataError(
            f"the results mix {len(revisions)} code revisions ({', '.join(revisions[:3])}) and are not averaged",
            remedy="run the study again with one version of the code",
        )
    seen: dict[tuple[str, str], str] = {}
    for group in table.group_by(["setting", "arm", "config_digest"]).aggregate([]).to_pylist():
        other = seen.setdefault((group["setting"], group["arm"]), group["config_digest"])
        if other != group["config_digest"]:
            raise DataError(
                f"the results mix two configurations of arm {group['arm']} in setting {group['setting']} ({other}, "
                f"{group['config_digest']}) and are not averaged", remedy="run the study again with one configuration",
            )  # fmt: skip


def finals_of(kept: pd.DataFrame, setting: str, arm: str) -> pd.DataFrame:
    """Last kept row of each seed, by seed. The order is that of attempts, which costs follow."""
    rows = kept[(kept["setting"] == setting) & (kept["arm"] == arm)]
    return rows.sort_values(["seed", "updates", "labels", "round", "attempt"]).groupby("seed").last()


def _finals(kept: pd.DataFrame, keys: AnalysisKeys, draws: int) -> Table:
    rows = []
    for setting, of_setting in kept.groupby("setting", sort=False):
        against = [a for a in ("from-base", "take-last") if a in set(of_setting["arm"])]
        for arm in of_setting["arm"].unique():
            last = finals_of(kept, setting, arm)
            gold = last["gold"].to_numpy()
            row: dict[str, Any] = {"setting": setting, "arm": arm, "seeds": len(last), "gold": interquartile_mean(gold)}
            if len(last) > 1:
                found = paired_bootstrap(gold, np.zeros_like(gold), draws=draws)
                row |= {"low": found.low, "high": found.high}
            for other in against:
                theirs = finals_of(kept, setting, other)["gold"].reindex(last.index)
                if other != arm and len(last) > 1 and not theirs.isna().any():
                    diff = paired_bootstrap(gold, theirs.to_numpy(), draws=draws)
                    row |= {f"minus {other}": diff.value, f"{other} low": diff.low, f"{other} high": diff.high}
            row |= {name: float(last[name].mean()) for name in ("labels", "labels_gate", "updates", *_MX)}
            row["diverged"] = int((last["status"] == "diverged").sum())
            rows.append(row)
    note = "gold: interquartile mean over seeds with its 95 % interval; differences paired by seed; the rest are means"
    return Table("finals", "Final gold, and what it took", note, rows)


def targets_of(kept: pd.DataFrame, setting: str, keys: AnalysisKeys) -> list[tuple[float, float]]:
    """(share, gold) of each target: shares of what the gold arm reaches in the median, or the best reference without it."""
    arms = set(kept.loc[kept["setting"] == setting, "arm"])
    measured = ["gold"] if "gold" in arms else [a for a in keys.references if a in arms]
    if not measured:
        return []
    best = max(float(finals_of(kept, setting, arm)["gold"].median()) for arm in measured)
    return [(share, share * best) for share in keys.targets]


def passage(kept: pd.DataFrame, setting: str, arm: str, cost: str, target: float, budget: float) -> Passage:
    """First passage of each seed, in the order of seeds. Rows of a diverged policy hold no target."""
    rows = kept[(kept["setting"] == setting) & (kept["arm"] == arm)].sort_values(["seed", "updates", "labels"])
    runs = [group for _, group in rows.groupby("seed")]
    width = max(len(group) for group in runs)
    costs, golds = np.full((len(runs), width), math.inf), np.full((len(runs), width), -math.inf)
    for i, group in enumerate(runs):
        good = np.where(group["status"] == "ok", group["gold"].fillna(-math.inf), -math.inf)
        costs[i, : len(group)], golds[i, : len(group)] = np.maximum.accumulate(group[cost].to_numpy(float)), good
    return first_passage(costs, golds, target, budget)


def _taxes(kept: pd.DataFrame, keys: AnalysisKeys, cost: str, draws: int) -> Table:
    rows = []
    for setting, of_setting in kept.groupby("setting", sort=False):
        there = list(of_setting["arm"].unique())
        references = [a for a in keys.references if a in there]
        arms = [a for a in dict.fromkeys((keys.primary, *_TAXED, *keys.references)) if a in there]
        budget = float(of_setting.loc[of_setting["arm"].isin(arms), cost].max())
        for share, target in targets_of(kept, setting, keys):
            passages = {a: passage(kept, setting, a, cost, target, budget) for a in arms}
            reachable = any(p.reached.any() for p in passages.values())
            for arm in arms:
                mine = passages[arm]
                arrived = clopper_pearson(int(mine.reached.sum()), len(mine.reached))
                row: dict[str, Any] = {
                    "setting": setting, "target": share, "gold": target, "arm": arm, "arrived": int(mine.reached.sum()),
                    "runs": len(mine.reached), "rate low": arrived.low, "rate high": arrived.high,
                    "ert": expected_running_time(mine), "restricted": float(mine.cost.mean()),
                    "standing": "ok" if mine.reached.all() else "censored" if reachable else "unreachable",
                }  # fmt: skip
                for other in references[:2]:
                    if other != arm and len(passages[other].cost) == len(mine.cost) and min(mine.cost.min(), 1) > 0:
                        found = bootstrap_tax(mine, passages[other], budget, draws=draws)
                        for name, tax in (("ert tax", found.running_time), ("restricted tax", found.restricted)):
                            title = f"{name} {other}"
                            row |= {title: tax.value, f"{title} low": tax.low, f"{title} high": tax.high}
                rows.append(row)
    note = (
        f"{cost} to first reach a share of what the arm gold reaches; ert: all cost over arrivals; restricted: mean, with runs "
        "that never arrive counted at the setting's largest cost; unreachable: no arm shown got there within its budget"
    )
    return Table(f"tax_{cost}", f"Tax in {cost}", note, rows)


def _bends(frame: pd.DataFrame) -> Table:
    """Which published form fits gold against distance, seed by seed, on the arms of one long round."""
    rows = []
    steps = frame[(frame["point"] == "step") & (frame["arm"].isin(["vanilla", "vanilla-wco", "vanilla-uwo", "dpo-offline"]))]
    for (setting, arm), group in steps.groupby(["setting", "arm"], sort=False):
        wins, peaks = dict.fromkeys(FORMS, 0), []
        for _, run in group.groupby("seed"):
            d, g = np.sqrt(run["kl"].to_numpy(float)), run["gold"].to_numpy(float)
            kept = np.isfinite(d) & np.isfinite(g) & (d > 0.2)
            if len(np.unique(d[kept])) < 5:
                continue
            curves = {form: fit(d[kept], g[kept], form) for form in FORMS}
            wins[min(FORMS, key=lambda form: curves[form].aicc)] += 1
            peak = curves["best_of_n"].peak
            peaks.append(peak[0] if peak else math.nan)
        row = {"setting": setting, "arm": arm, **{f"best {form}": wins[form] for form in FORMS}}
        interior = [p for p in peaks if not math.isnan(p)]
        middle = float(np.median(interior)) if interior else math.nan
        rows.append(row | {"interior peaks": len(interior), "median peak d": middle})
    note = "seeds for which each form has the lowest AICc over points with d above 0.2; d is the square root of the KL"
    return Table("overoptimisation", "How gold bends with distance", note, rows)


def as_plain(tables: list[Table]) -> dict[str, Any]:
    """For JSON: numbers that are not finite become null."""
    return {
        t.name: {"title": t.title, "note": t.note, "rows": [{k: _plain(v) for k, v in r.items()} for r in t.rows]}
        for t in tables
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells as a reader sees them; an interval is one cell with its value."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if key == "low" or key == "high" or key.endswith((" low", " high")):
            continue
        prefix = {"gold": "", "arrived": "rate "}.get(key, key.removeprefix("minus ") + " ")
        low, high = row.get(f"{prefix}low"), row.get(f"{prefix}high")
        text = _number(value)
        cells[key] = f"{text} [{_number(low)}, {_number(high)}]" if low is not None and key != "arrived" else text
    return cells


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "−")


def as_text(tables: list[Table]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for table in tables:
        rows = [shown(row) for row in table.rows]
        heads = list(dict.fromkeys(key for row in rows for key in row))
        widths = {h: max(len(h), *(len(r.get(h, "")) for r in rows)) if rows else len(h) for h in heads}
        lines += [table.title, f"  ({table.note})", "  ".join(h.ljust(widths[h]) for h in heads)]
        lines += ["  ".join(r.get(h, "").ljust(widths[h]) for h in heads).rstrip() for r in rows] + [""]
    return "\n".join(lines)
