"""Arms at equal cost: what each holds when both have spent as much as the one that spends less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlback.maths.aggregate import interquartile_mean, paired_bootstrap
from rlback.maths.tax import area_between
from rlback.studies.protocol import Array
from rlback.studies.reading import Results, Table, finals_of, in_order

#: Costs at which two arms' curves are compared; between two of them a step of a curve may be off by a fiftieth.
_GRID = 50
_METHODS = ("rollback-once", "rollback-until-approved", "rollback-bound", "rollback-ladder", "receding-0.5")


def equal_cost(results: Results) -> Table:
    """Gold kept at equal labels and at equal updates: the arms that go back less the iterated references, paired by seed."""
    rows, kept = [], results.kept
    for setting in results.settings:
        there = results.there(setting)
        for arm in [a for a in dict.fromkeys((results.keys.primary, *_METHODS)) if a in there]:
            for other in [a for a in ("take-last", "from-base", "vanilla-up-front") if a in there and a != arm]:
                for cost in ("labels", "updates"):
                    ends = [finals_of(kept, setting, a)[cost] for a in (arm, other)]
                    if len(ends[0]) < 2 or not ends[0].index.equals(ends[1].index):
                        continue
                    budget = np.minimum(*ends)
                    at = budget.to_numpy(float)[:, None]
                    mine, theirs = (_held(kept, setting, a, cost, budget.index, at)[:, 0] for a in (arm, other))
                    found = paired_bootstrap(mine, theirs, draws=results.draws)
                    row: dict[str, Any] = {"setting": setting, "at equal": cost, "mean": float(budget.mean()), "arm": arm}
                    row |= {"less": other, "holds": interquartile_mean(mine), "theirs": interquartile_mean(theirs)}
                    row |= {"minus": found.value, "minus low": found.low, "minus high": found.high}
                    rows.append(row | _on_the_way(results, setting, (arm, other), cost, budget))
    note = (
        "gold of the policy that an arm kept when it had spent at most what the cheaper of the two spent in all, seed by seed; "
        "mean: of that cost; on the way: the same difference averaged over the logarithm of the cost, from where both have kept "
        "something to there; interquartile means, differences paired by seed with 95 % intervals"
    )
    return Table("equal_cost", "At equal cost", note, rows)


def _on_the_way(results: Results, setting: str, arms: tuple[str, str], cost: str, budget: pd.Series) -> dict[str, float]:
    """Area between the two arms' gold over log cost, as a mean difference over each seed's shared range."""
    kept, ends = results.kept, budget.to_numpy(float)
    chosen = kept[(kept["setting"] == setting) & (kept["round"] > 0)]
    begun = [chosen[chosen["arm"] == arm].groupby("seed")[cost].min().reindex(budget.index).to_numpy(float) for arm in arms]
    first = np.maximum(*begun)
    if not (first > 0).all() or not (first < ends).all():
        return {}
    grid = np.geomspace(first, ends, _GRID).T
    mine, theirs = (_held(kept, setting, arm, cost, budget.index, grid) for arm in arms)
    leads = area_between(grid, mine, theirs) / np.log(ends / first)
    found = paired_bootstrap(leads, np.zeros_like(leads), draws=results.draws)
    return {"on the way": found.value, "on the way low": found.low, "on the way high": found.high}


def _held(kept: pd.DataFrame, setting: str, arm: str, cost: str, seeds: pd.Index[Any], spent: Array) -> Array:
    """Gold of the last kept policy at costs (seeds, n), in the order of `seeds`."""
    own = in_order(kept[(kept["setting"] == setting) & (kept["arm"] == arm)])
    runs = {seed: (run[cost].to_numpy(float), run["gold"].to_numpy(float)) for seed, run in own.groupby("seed")}
    return np.stack([
        runs[seed][1][np.searchsorted(np.maximum.accumulate(runs[seed][0]), at, side="right") - 1]
        for seed, at in zip(seeds, spent, strict=True)
    ])  # fmt: skip
