"""Arms at equal cost: what each holds when both have spent as much as the one that spends less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlback.maths.aggregate import interquartile_mean, paired_bootstrap
from rlback.studies.reading import Results, Table, finals_of

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
                    mine, theirs = (_held(kept, setting, a, cost, budget) for a in (arm, other))
                    found = paired_bootstrap(mine, theirs, draws=results.draws)
                    row: dict[str, Any] = {"setting": setting, "at equal": cost, "mean": float(budget.mean()), "arm": arm}
                    row |= {"less": other, "holds": interquartile_mean(mine), "theirs": interquartile_mean(theirs)}
                    rows.append(row | {"minus": found.value, "minus low": found.low, "minus high": found.high})
    note = (
        "gold of the policy that an arm kept when it had spent at most what the cheaper of the two spent in all, seed by seed; "
        "mean: of that cost; interquartile means, differences paired by seed with 95 % intervals"
    )
    return Table("equal_cost", "At equal cost", note, rows)


def _held(kept: pd.DataFrame, setting: str, arm: str, cost: str, budget: pd.Series) -> np.ndarray[Any, Any]:
    """Gold of the last kept policy of each seed whose cost is within the seed's budget, in the order of `budget`."""
    own = kept[(kept["setting"] == setting) & (kept["arm"] == arm)]
    within = own[own[cost].to_numpy() <= budget.loc[own["seed"]].to_numpy()]
    return finals_of(within, setting, arm)["gold"].reindex(budget.index).to_numpy(float)
