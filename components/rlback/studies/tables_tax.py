"""The tax taken apart: what it is made of, and what it is among runs whose kept updates were no worse paid for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlback.maths.tax import FACTORS, bootstrap_tax, decompose, expected_running_time, label_factors
from rlback.studies.reading import Results, Table, finals_of, passage, targets_of

#: The target whose tax is taken apart; the one that was pre-registered.
_SHARE = 0.75
#: At most so many draws here: there are two references, five parts and as many arms as a study has.
_DRAWS = 300
#: Exposure that the ceiling is of (config.AnalysisKeys).
_EXPOSURE = "mx_sign_kept"


def decomposition(results: Results) -> Table:
    """log(label tax) as a sum: labels an attempt, attempts a commit, commits an arrival, one plus the gate's share."""
    rows = []
    for setting in results.settings:
        there = results.methods(setting)
        references = [a for a in results.keys.references[:2] if a in there]
        for share, target in targets_of(results.kept, setting, results.keys):
            if share != _SHARE or not references:
                continue
            sums = {arm: _spent(results, setting, arm, target) for arm in there}
            for arm in there:
                for other in references:
                    if arm != other and len(sums[arm]) == len(sums[other]):
                        found = _parts(sums[arm], sums[other], results.draws)
                        rows.append({"setting": setting, "arm": arm, "against": other, "target": share} | found)
    note = (
        "natural logarithms of ratios of expected running times in labels; the parts add up to the tax; labels an attempt "
        "without the gate's; commits an arrival: kept attempts of all runs over the runs that arrive; arms that never "
        "commit, learn from no labels or never arrive have no such sum"
    )
    return Table("tax_parts", "Label tax, taken apart", note, [row for row in rows if len(row) > 4])


def _spent(results: Results, setting: str, arm: str, target: float) -> np.ndarray[Any, Any]:
    """Of each seed up to its arrival or end: training labels, gate labels, attempts, commits, arrived. (seeds, 5)."""
    found = []
    for _, run in results.of(setting, arm, "kept").groupby("seed"):
        holds = ((run["gold"] >= target) & (run["status"] == "ok")).to_numpy()
        last = int(holds.argmax()) if holds.any() else len(run) - 1
        row = run.iloc[last]
        commits = int((run["decision"].iloc[1 : last + 1] == "kept").sum())
        found.append([row["labels_reward"], row["labels_gate"], last, commits, holds.any()])
    return np.array(found, dtype=float)


def _parts(method: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], draws: int) -> dict[str, float]:
    n = len(method)
    chosen = np.random.default_rng(0).integers(n, size=(min(draws, _DRAWS), n))
    whole = _logs(method.sum(0), reference.sum(0))
    if whole is None:
        return {}
    drawn = [found for rows in chosen if (found := _logs(method[rows].sum(0), reference[rows].sum(0)))]
    out: dict[str, float] = {}
    for name in ("tax", *FACTORS):
        low, high = np.quantile([d[name] for d in drawn], [0.025, 0.975])
        title = {"labels_per_attempt": "labels an attempt", "attempts_per_commit": "attempts a commit",
                 "commits": "commits an arrival", "gate": "gate"}.get(name, name)  # fmt: skip
        out |= {title: whole[name], f"{title} low": float(low), f"{title} high": float(high)}
    return out


def _logs(method: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> dict[str, float] | None:
    """Logarithm of each factor's ratio and of the tax; None where a sum is 0 that may not be."""
    sides = []
    for training, gate, attempts, commits, arrived in (method, reference):
        if min(training, attempts, commits, arrived) <= 0:
            return None
        of = label_factors(training_labels=training, gate_labels=gate, attempts=int(attempts), commits=int(commits))
        sides.append(of | {"commits": commits / arrived})
    found = decompose(*sides)
    return found | {"tax": math.fsum(found.values())}


def iso_exposure(results: Results) -> Table:
    """Cost of a target for runs whose kept exposure is at most what the references usually end with."""
    rows = []
    for setting in results.settings:
        there = results.methods(setting)
        references = [a for a in results.keys.references if a in there]
        if not references:
            continue
        ceiling = results.keys.ceiling
        if ceiling is None:
            ends = [finals_of(results.kept, setting, a)[_EXPOSURE] for a in references]
            ceiling = float(np.nanmedian(np.concatenate([e.to_numpy(float) for e in ends])))
        arms = [a for a in there if finals_of(results.kept, setting, a)["labels"].max() > 0]
        for cost in ("labels", "updates"):
            budget = float(results.kept.loc[results.kept["setting"] == setting, cost].max())
            for share, target in targets_of(results.kept, setting, results.keys):
                for arm in arms:
                    found = passage(results.kept, setting, arm, cost, target, budget, exposure=_EXPOSURE, ceiling=ceiling)
                    free = passage(results.kept, setting, arm, cost, target, budget)
                    row: dict[str, Any] = {
                        "setting": setting, "cost": cost, "target": share, "ceiling": ceiling, "arm": arm,
                        "arrived": int(found.reached.sum()), "without the ceiling": int(free.reached.sum()),
                        "runs": len(found.reached), "ert": expected_running_time(found),
                    }  # fmt: skip
                    for other in references[:2]:
                        theirs = passage(results.kept, setting, other, cost, target, budget, exposure=_EXPOSURE, ceiling=ceiling)
                        if other != arm and len(theirs.cost) == len(found.cost) and found.cost.min() > 0:
                            tax = bootstrap_tax(found, theirs, draws=results.draws).running_time
                            row |= {f"tax {other}": tax.value, f"tax {other} low": tax.low, f"tax {other} high": tax.high}
                    rows.append(row)
    note = (
        "only kept policies whose kept updates have an MX_sign of at most the ceiling count as arrived; the ceiling is the "
        "median over the references' ends unless the study sets one; tax: ratio of expected running times among such runs"
    )
    return Table("tax_iso", "Tax at equal exposure", note, rows)
