"""Whose fault the gap to the best policy is: labellers', reward model's or optimiser's (maths/attribution.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlback.maths.aggregate import paired_bootstrap
from rlback.maths.attribution import Cell, interactions, shapley, telescoping
from rlback.studies.reading import Results, Table, finals_of

_PARTS = ("labeller", "reward_model", "optimiser")
_SETS = {
    (0, 1): "labeller x reward model", (0, 2): "labeller x optimiser", (1, 2): "reward model x optimiser", (0, 1, 2): "all three",
}  # fmt: skip


def attribution(results: Results) -> Table:
    """Telescoping and Shapley shares of each method that has all eight oracle swaps among the arms, with interactions."""
    rows = []
    for method, cells in _factorials(results).items():
        for setting in results.settings:
            if not set(cells.values()) <= set(results.there(setting)):
                continue
            ends = {cell: finals_of(results.kept, setting, arm) for cell, arm in cells.items()}
            seeds = ends[(True, True, True)].index
            golds = {cell: end["gold"].reindex(seeds).to_numpy(float) for cell, end in ends.items()}
            rows += _rows(results, setting, method, golds, sum(int((e["status"] == "diverged").sum()) for e in ends.values()))
    note = (
        "mean over seeds in units of gold, signed, with 95 % intervals; each way's three shares add up to the gap between the "
        "best policy within the distance and what the method made of human labels, a learned reward and real steps; "
        "interactions: what faults do together beyond what they do apart; labellers' random noise counts as the reward "
        "model's; diverged runs stand at the policy they had kept"
    )
    return Table("attribution", "Whose fault the gap is", note, rows)


def _factorials(results: Results) -> dict[str, dict[Cell, str]]:
    """Methods with eight arms that differ in nothing but their swaps; the method's name is what the arms' share."""
    found: dict[str, dict[Cell, str]] = {}
    for arm, tree in results.arms.items():
        if "swap" in tree:
            cell = (tree["swap"]["labels"] == "human", tree["score_by"] == "reward_model", tree["swap"]["optimiser"] == "steps")
            found.setdefault(arm.rpartition("-swap-")[0], {})[cell] = arm
    return {method: cells for method, cells in found.items() if len(cells) == 8}


def _rows(
    results: Results, setting: str, method: str, golds: dict[Cell, np.ndarray[Any, Any]], diverged: int
) -> list[dict[str, Any]]:
    each = [{cell: float(gold[i]) for cell, gold in golds.items()} for i in range(len(golds[(True, True, True)]))]
    steps = [
        telescoping(gold=v[(False, False, False)], human=v[(True, False, False)], learned=v[(True, True, False)],
                    actual=v[(True, True, True)])
        for v in each
    ]  # fmt: skip
    ways = {"telescoping": steps, "shapley": [shapley(v) for v in each]}
    rows = []
    for way, shares in ways.items():
        row: dict[str, Any] = {"setting": setting, "method": method, "way": way, "seeds": len(each)}
        for part in ("gap", *_PARTS):
            row |= _mean(results, part.replace("_", " "), [getattr(s, part) for s in shares])
        if way == "shapley":
            dividends = [interactions(v) for v in each]
            for key, name in _SETS.items():
                row |= _mean(results, name, [d[key] for d in dividends])
        rows.append(row | {"diverged": diverged})
    return rows


def _mean(results: Results, name: str, values: list[float]) -> dict[str, float]:
    array = np.array(values)
    if len(array) < 2:
        return {name: float(array.mean())}
    # The mean, so that the shares add up; an interquartile mean of each would not.
    found = paired_bootstrap(array, np.zeros_like(array), statistic=lambda v: float(v.mean()), draws=results.draws)
    return {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
