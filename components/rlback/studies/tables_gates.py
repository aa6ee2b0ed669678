"""What gates get wrong against gold, and what asking until yes does to an approver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlback.maths.aggregate import ratio_bootstrap
from rlback.maths.sequential import agreement_seen
from rlback.studies.reading import Results, Table, finals_of

#: Gates that let through whatever comes, in time: nothing to get wrong. An approver has a table of his own.
_UNGATED = ("always", "lookahead")
#: What is counted, and out of how much, seed by seed.
Sums = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
#: Attempts from which an arm counts as asking until yes.
UNTIL = 64


def gate_errors(results: Results) -> Table:
    """False approvals and false declines of every arm that has a gate, and what a decision cost in labels."""
    rows = []
    for setting in results.settings:
        for arm in [a for a in results.there(setting) if _gated(results, a)]:
            found = results.decisions(setting, arm)
            yes, worse = (found["decision"] == "kept").to_numpy(), found["worse"].to_numpy(bool)
            row: dict[str, Any] = {
                "setting": setting, "arm": arm, "decisions": len(found), "worse": float(worse.mean()),
                "approved": float(yes.mean()),
            }  # fmt: skip
            row |= _ratio(results, found, "false approvals", yes & worse, worse)
            row |= _ratio(results, found, "false declines", ~yes & ~worse, ~worse)
            row |= _ratio(results, found, "wrong", yes == worse, np.ones_like(yes))
            row |= {"labels a decision": float(found["asked"].mean())}
            row |= {"labels an approval": float(found["asked"].sum() / yes.sum()) if yes.any() else np.inf}
            row |= {"gold": float(finals_of(results.kept, setting, arm)["gold"].mean())}
            rows.append(row | {"diverged": int((found["status"] == "diverged").sum())})
    note = (
        "worse: share of candidates whose gold is below the kept policy's (a diverged one is worse); false approvals: of those, "
        "the approved share; false declines: of the others, the declined share; 95 % intervals by bootstrap over seeds; each "
        "gate sees the candidates that its own decisions led to; gold: mean of the final policies"
    )
    return Table("gates", "What gates get wrong", note, rows)


def approvals(results: Results) -> Table:
    """An approver who is asked m times, by his noise: how often something worse is approved, and by how much worse."""
    rows = []
    for setting in results.settings:
        once: dict[tuple[float, bool], Sums] = {}
        asked = [a for a in results.there(setting) if results.arms.get(a, {}).get("gate", {}).get("by") == "approver"]
        for arm in sorted(asked, key=lambda a: results.arms[a]["attempts"]):
            tree = results.arms[arm]
            gate = tree["gate"]
            found = results.decisions(setting, arm)
            yes, worse = (found["decision"] == "kept").to_numpy(), found["worse"].to_numpy(bool)
            first = (found["attempt"] == 1).to_numpy()
            row: dict[str, Any] = {
                "setting": setting, "arm": arm, "noise": gate["noise"], "refreshed": str(tree["refresh"]).lower(),
                "attempts": "until yes" if tree["attempts"] >= UNTIL else str(tree["attempts"]), "checkpoints": int(first.sum()),
            }  # fmt: skip
            row |= _ratio(results, found, "approved", yes, first)
            row |= _ratio(results, found, "falsely", yes & worse, first)
            sums = _sums(found, yes & worse, first)
            once.setdefault((gate["noise"], tree["refresh"]), sums)
            row |= _interval(results, "over one attempt", sums, once[gate["noise"], tree["refresh"]])
            row |= _ratio(results, found, "falsely at once", yes & worse & first, first)
            row |= _ratio(results, found, "falsely later", yes & worse & ~first, first)
            row |= {"if independent": _independent(found, yes & worse, yes & ~worse, int(tree["attempts"]))}
            row |= _ratio(results, found, "false of approved", yes & worse, yes)
            row |= _ratio(results, found, "gold change", np.where(yes, found["change"], 0.0), yes)
            seen = agreement_seen(found["win_true"].to_numpy(float), 1 - float(gate["noise"]))
            row |= _ratio(results, found, "overstated by", np.where(yes, found["win_rate"] - seen, 0.0), yes)
            row |= {"attempts a checkpoint": len(found) / first.sum()}
            row |= {"gold": float(finals_of(results.kept, setting, arm)["gold"].mean())}
            rows.append(row)
    order = ["setting", "refreshed", "noise"]
    rows = pd.DataFrame(rows).sort_values(order, kind="stable").to_dict("records") if rows else []
    note = (
        "of the checkpoints begun, the share at which something was approved, and at which it was worse than the kept policy "
        "(falsely); at once: by the first attempt, later: by another; over one attempt: less the share of the arm that may ask "
        "once, whose runs end at the first no; if independent: falsely, if every attempt were like the checkpoint's first; of "
        "what was approved: share that was worse, true change of gold, and by how much the wins that the approver saw overstate "
        "what he would see on average; 95 % intervals by bootstrap over seeds; until yes: 64 attempts; gold: of final policies"
    )
    return Table("approvals", "Asking an approver until he says yes", note, [{str(k): v for k, v in row.items()} for row in rows])


def _gated(results: Results, arm: str) -> bool:
    tree = results.arms.get(arm)
    if tree is None:
        return False
    # Going back to an earlier checkpoint changes the kept policy without a row that says so.
    return tree["gate"]["by"] not in (*_UNGATED, "approver") and tree["exhausted"] != "back"


def _independent(found: pd.DataFrame, false: np.ndarray[Any, Any], right: np.ndarray[Any, Any], attempts: int) -> float:
    first = (found["attempt"] == 1).to_numpy()
    p, q = float(false[first].mean()), float(right[first].mean())
    return p / (p + q) * (1 - (1 - p - q) ** attempts) if p + q > 0 else 0.0


def _ratio(
    results: Results, found: pd.DataFrame, name: str, part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]
) -> dict[str, float]:
    return _interval(results, name, _sums(found, part, whole))


def _sums(found: pd.DataFrame, part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> Sums:
    """Of each seed."""
    sums = pd.DataFrame({"seed": found["seed"].to_numpy(), "part": part, "whole": whole}).astype(float).groupby("seed").sum()
    return sums["part"].to_numpy(), sums["whole"].to_numpy()


def _interval(results: Results, name: str, sums: Sums, reference: Sums | None = None) -> dict[str, float]:
    if reference is not None and len(reference[0]) != len(sums[0]):
        return {}
    found = ratio_bootstrap(*sums, reference=reference, draws=results.draws)
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
