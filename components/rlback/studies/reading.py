"""What every table of a study is made from: its rows, what its arms were, and how runs are read off them.

Rows of different configurations or code are never averaged (`one_origin`). A run that diverged is a censored run: it
stands at the policy it had kept, reaches no target with the broken one, and is never left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rlback.errors import DataError
from rlback.maths.tax import Passage, first_passage
from rlback.studies.config import AnalysisKeys

_ORDER = ["seed", "updates", "labels", "round", "attempt"]


@dataclass(frozen=True)
class Table:
    """Rows of plain values under a title; `note` says what a reader must know."""

    name: str
    title: str
    note: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """Rows of a study. arms: settings of each arm by name, as study.json holds them; empty for results that have none."""

    frame: pd.DataFrame
    keys: AnalysisKeys
    draws: int
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def kept(self) -> pd.DataFrame:
        """Rows of the kept policy."""
        return self.frame[self.frame["point"] == "kept"]

    @cached_property
    def settings(self) -> list[str]:
        """In the order of the rows."""
        return list(self.frame["setting"].unique())

    def there(self, setting: str) -> list[str]:
        """Arms that were run in a setting."""
        return list(self.kept.loc[self.kept["setting"] == setting, "arm"].unique())

    def methods(self, setting: str) -> list[str]:
        """The same without those that have a part swapped for the truth, whose costs say nothing of a method."""
        return [arm for arm in self.there(setting) if "swap" not in self.arms.get(arm, {})]

    def of(self, setting: str, arm: str, *points: str) -> pd.DataFrame:
        """Rows of an arm in the order of its attempts, of some points only."""
        mine = (self.frame["setting"] == setting) & (self.frame["arm"] == arm)
        return self.frame[mine & self.frame["point"].isin(points)].pipe(in_order)

    def decisions(self, setting: str, arm: str) -> pd.DataFrame:
        """Candidates in order, with `before` and `change`: gold of the policy kept until then, and how much more theirs is.

        `asked`: labels of the gate for this decision. `worse`: gold fell, or the candidate diverged, which has no gold.
        """
        rows = self.of(setting, arm, "candidate").copy()
        kept = self.of(setting, arm, "kept")
        for column, name in (("gold", "before"), ("labels_gate", "gate_before")):
            # The n-th decision of a run is made beside its n-th kept row: one stands at the start, one after each decision.
            place = kept.groupby("seed").cumcount()
            values = pd.Series(kept[column].to_numpy(), index=pd.MultiIndex.from_arrays([kept["seed"], place]))
            rows[name] = values.reindex(pd.MultiIndex.from_arrays([rows["seed"], rows.groupby("seed").cumcount()])).to_numpy()
        diverged = rows["status"] == "diverged"
        rows["change"] = np.where(diverged, np.nan, rows["gold"] - rows["before"])
        rows["asked"] = rows["labels_gate"] - rows["gate_before"]
        rows["worse"] = diverged | (rows["change"] < 0)
        return rows


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
    return in_order(rows).groupby("seed").last()


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows seed by seed in the order of attempts."""
    return rows.sort_values(_ORDER, kind="stable")


def targets_of(kept: pd.DataFrame, setting: str, keys: AnalysisKeys) -> list[tuple[float, float]]:
    """(share, gold) of each target: shares of what the gold arm reaches in the median, or the best reference without it."""
    arms = set(kept.loc[kept["setting"] == setting, "arm"])
    measured = ["gold"] if "gold" in arms else [a for a in keys.references if a in arms]
    if not measured:
        return []
    best = max(float(finals_of(kept, setting, arm)["gold"].median()) for arm in measured)
    return [(share, share * best) for share in keys.targets]


def passage(
    kept: pd.DataFrame, setting: str, arm: str, cost: str, target: float, budget: float,
    *, exposure: str | None = None, ceiling: float = math.inf,
) -> Passage:  # fmt: skip
    """First passage of each seed, in the order of seeds. Rows of a diverged policy hold no target.

    `exposure` names a column that must be at most `ceiling` where the target is held; before any update it is 0.
    A run whose last attempt was kept came to the end of its rounds and could have gone on; one whose last attempt was
    declined gave up, and with one that diverged it never arrives.
    """
    rows = kept[(kept["setting"] == setting) & (kept["arm"] == arm)].sort_values(["seed", "updates", "labels"])
    runs = [group for _, group in rows.groupby("seed")]
    width = max(len(group) for group in runs)
    costs, golds = np.full((len(runs), width), math.inf), np.full((len(runs), width), -math.inf)
    exposed = np.zeros_like(costs)
    for i, group in enumerate(runs):
        good = np.where(group["status"] == "ok", group["gold"].fillna(-math.inf), -math.inf)
        costs[i, : len(group)], golds[i, : len(group)] = np.maximum.accumulate(group[cost].to_numpy(float)), good
        if exposure is not None:
            exposed[i, : len(group)] = group[exposure].fillna(0.0)
    found = first_passage(costs, golds, target, budget, exposure=exposed if exposure else None, ceiling=ceiling)
    ended = [(group["status"].iloc[-1], group["decision"].iloc[-1]) for group in runs]
    open_ended = found.reached | np.array([end == ("ok", "kept") for end in ended])
    assert found.spent is not None
    return replace(found, watched=np.where(open_ended, found.spent, math.inf))
