"""What a study's table says: final gold, labels, updates, exposure, contrasts and taxes; and where the other tables are.

Each table is a function of the results, made when it is asked for: some take seconds of bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rlback.maths.aggregate import apart_bootstrap, interquartile_mean, paired_bootstrap
from rlback.maths.tax import bootstrap_tax, clopper_pearson, expected_running_time, horizon_of, log_rank
from rlback.studies.arms import named
from rlback.studies.config import AnalysisKeys
from rlback.studies.reading import Results, Table, finals_of, one_origin, passage, targets_of
from rlback.studies.tables_attribution import attribution
from rlback.studies.tables_curves import bends, refreshes
from rlback.studies.tables_equal import equal_cost
from rlback.studies.tables_falls import falls
from rlback.studies.tables_gates import approvals, gate_errors
from rlback.studies.tables_signals import early_signals
from rlback.studies.tables_tax import decomposition, iso_exposure

_MX = ("mx_sign_kept", "mx_false_kept", "mx_bad_kept", "mx_flow_kept")
#: Arms whose taxes are shown, besides the references.
_TAXED = (
    "rollback-once", "rollback-until-approved", "rollback-bound", "rollback-ladder", "receding-0.5", "gate-random",
    "vanilla-up-front",
)  # fmt: skip


def read(
    table: pa.Table, keys: AnalysisKeys, arms: dict[str, dict[str, Any]] | None = None, *, draws: int | None = None,
    settings: Sequence[str] = (), against: Sequence[str] = (),
) -> Results:  # fmt: skip
    """The results, of some settings only where any are named, with taxes against the study's references or those named.

    Raises:
        DataError: the rows are of several configurations or code revisions.
        ConfigError: there is no setting or arm of a name.
    """
    one_origin(table)
    frame = table.to_pandas()
    for arm in against:
        named(arm, dict.fromkeys(frame["arm"].unique()), "the results", "arm")
    keys = replace(keys, references=tuple(against)) if against else keys
    for setting in settings:
        named(setting, dict.fromkeys(frame["setting"].unique()), "the results", "setting")
    frame = frame[frame["setting"].isin(list(settings))] if settings else frame
    return Results(frame, keys, draws or keys.draws, arms or {})


def primary(results: Results) -> Table:
    """The contrast that a study is there for: the primary arm against from-base and take-last, setting by setting."""
    rows = [
        {k: v for k, v in row.items() if not k.startswith(("mx_", "bad")) and k not in ("arm", "labels_gate")}
        for row in finals(results, [results.keys.primary]).rows
    ]
    for row in rows:
        spent = finals_of(results.kept, row["setting"], results.keys.primary)["labels"]
        row["labels, middle half"] = interquartile_mean(spent.to_numpy(float))
        for other in [a for a in ("from-base", "take-last", "gold") if a in results.there(row["setting"])]:
            ends = finals_of(results.kept, row["setting"], other)["gold"]
            row[f"gold of {other}"] = interquartile_mean(ends.to_numpy())
    note = "final gold, interquartile mean over seeds; minus: the arm less another, paired by seed; labels and updates: means"
    return Table("primary", f"Primary contrast: {results.keys.primary}", note, rows)


def finals(results: Results, arms: Sequence[str] = ()) -> Table:
    """Final gold of every arm, or of some, with differences from the two iterated references."""
    rows, kept, draws = [], results.kept, results.draws
    for setting in results.settings:
        there = results.there(setting)
        against = [a for a in ("from-base", "take-last") if a in there]
        for arm in [a for a in there if not arms or a in arms]:
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
            row |= {name: float(last[name].mean()) for name in ("labels", "labels_gate", "updates", *_MX, "mx_integrated_kept")}
            begun = kept[(kept["setting"] == setting) & (kept["arm"] == arm) & (kept["round"] == 0)]
            row |= {"bad": float(last["bad"].mean()), "bad of base": float(begun["bad"].mean())}
            row["diverged"] = int((last["status"] == "diverged").sum())
            rows.append(row)
    note = (
        "gold: interquartile mean over seeds with its 95 % interval; differences paired by seed; the rest are means; bad: share "
        "of the final policy's completions in the fixed bad set, and of the base's"
    )
    return Table("finals", "Final gold, and what it took", note, rows)


def contrasts(results: Results) -> Table:
    """The primary arm less each other one, paired by seed: final gold, and the exposure of its kept updates."""
    rows, kept, primary_arm = [], results.kept, results.keys.primary
    for setting in [s for s in results.settings if primary_arm in results.there(s)]:
        mine = finals_of(kept, setting, primary_arm)
        for other in [a for a in results.there(setting) if a != primary_arm]:
            theirs = finals_of(kept, setting, other).reindex(mine.index)
            if len(mine) < 2 or theirs["gold"].isna().any():
                continue
            row: dict[str, Any] = {"setting": setting, "less": other, "seeds": len(mine)}
            for name in ("gold", *_MX):
                a, b = mine[name].to_numpy(float), theirs[name].to_numpy(float)
                if np.isfinite(a).all() and np.isfinite(b).all():
                    found = paired_bootstrap(a, b, draws=results.draws)
                    title = "final gold" if name == "gold" else name
                    row |= {title: found.value, f"{title} low": found.low, f"{title} high": found.high}
                    if name == "gold":
                        apart = apart_bootstrap(a, b, draws=results.draws)
                        row |= {"gold apart": apart.value, "gold apart low": apart.low, "gold apart high": apart.high}
            rows.append(row)
    note = (
        f"{primary_arm} less the arm named: interquartile means of differences paired by seed with 95 % intervals, not corrected "
        "for being many; gold apart: the interquartile mean of the one less that of the other, seeds drawn in pairs; an exposure "
        "that one of the two does not have is left out"
    )
    return Table("contrasts", f"{primary_arm} against every other arm", note, rows)


def _taxes(results: Results, cost: str) -> Table:
    rows, kept, keys, draws = [], results.kept, results.keys, results.draws
    for setting in results.settings:
        there, of_setting = results.there(setting), kept[kept["setting"] == setting]
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
                    "ert": expected_running_time(mine),
                    "standing": "ok" if mine.reached.all() else "censored" if reachable else "unreachable",
                }  # fmt: skip
                for other in references[:2]:
                    if other != arm and len(passages[other].cost) == len(mine.cost) and min(mine.cost.min(), 1) > 0:
                        found = bootstrap_tax(mine, passages[other], draws=draws)
                        for name, tax in (("ert tax", found.running_time), ("restricted tax", found.restricted)):
                            title = f"{name} {other}"
                            row |= {title: tax.value, f"{title} low": tax.low, f"{title} high": tax.high}
                        row[f"up to, {other}"] = horizon_of(mine, passages[other])
                        row[f"log-rank p {other}"] = log_rank(mine, passages[other])
                rows.append(row)
    spent = "processor seconds of the machine that ran it" if cost == "seconds" else cost
    note = (
        f"{spent} to first reach a share of what the arm gold reaches; ert: all cost over arrivals; restricted tax: "
        "ratio of Kaplan-Meier means of the cost up to the largest at which both arms are known, runs that came to the end of "
        "their rounds censored there, runs that diverged or gave up never arriving; log-rank: of arrivals, unpaired; "
        "unreachable: no arm shown got there within its budget"
    )
    return Table(f"tax_{cost}", f"Tax in {cost}", note, rows)


#: Every table by name, in the order shown.
TABLES: dict[str, Callable[[Results], Table]] = {
    "primary": primary,
    "finals": finals,
    "contrasts": contrasts,
    "equal_cost": equal_cost,
    "falls": falls,
    "tax_labels": lambda results: _taxes(results, "labels"),
    "tax_updates": lambda results: _taxes(results, "updates"),
    "tax_seconds": lambda results: _taxes(results, "seconds"),
    "tax_parts": decomposition,
    "tax_iso": iso_exposure,
    "overoptimisation": bends,
    "refreshes": refreshes,
    "attribution": attribution,
    "gates": gate_errors,
    "approvals": approvals,
    "early_signals": early_signals,
}


def all_tables(results: Results) -> list[Table]:
    """Those that have a row."""
    return [table for make in TABLES.values() if (table := make(results)).rows]
