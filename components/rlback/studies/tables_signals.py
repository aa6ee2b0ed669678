"""What warns early: measurements that need no labels, at the end of a segment, against what gold does afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from rlback.studies.reading import Results, Table, finals_of

#: Column to whether a high value is the warning.
SIGNALS = {"accuracy_on_policy": False, "spread": True, "reward_variance": False, "tail_index": False, "proxy_standardised": True}
_ARMS = ("watched", "take-last-mean", "take-last", "rollback-until-approved", "long-rounds", "vanilla-mean")
#: Fewer seeds under way than this in a round, and it has no rank correlation worth the name.
_FEWEST = 8


def early_signals(results: Results) -> Table:
    """Rank correlation over seeds, within a round, of each signal with the change of gold in the next attempt."""
    rows = []
    for setting in results.settings:
        for arm in [a for a in _ARMS if a in results.there(setting)]:
            found = results.of(setting, arm, "candidate")
            found = found[found["attempt"] == 1]
            ends = finals_of(results.kept, setting, arm)["gold"]
            later = found.groupby("seed")["gold"].shift(-1)
            # A candidate that diverged is the worst there is; a run's last candidate has nothing after it.
            gone = (found["status"].groupby(found["seed"]).shift(-1) == "diverged").to_numpy()
            found = found.assign(
                next=np.where(gone, -np.inf, later - found["gold"]), rest=found["seed"].map(ends) - found["gold"]
            )  # fmt: skip
            found = found[(found["status"] == "ok") & later.notna().to_numpy()]
            for signal in [s for s in SIGNALS if found[s].notna().any()]:
                row: dict[str, Any] = {"setting": setting, "arm": arm, "signal": signal, "pairs": len(found)}
                for target, name in (("next", "next attempt"), ("rest", "rest of the run")):
                    row |= _correlation(found, signal, target, name, results.draws)
                if "next attempt" in row:
                    rows.append(row)
    note = (
        "Spearman's correlation over seeds within a round, mean over rounds, with the gold gained up to the next candidate and "
        "until the end of the run; 95 % bootstrap intervals over seeds; positive: a high value goes with gold that rises; "
        "first attempts of a round only"
    )
    return Table("early_signals", "What warns without labels", note, rows)


def _correlation(found: pd.DataFrame, signal: str, target: str, name: str, draws: int) -> dict[str, float]:
    x = found.pivot(index="seed", columns="round", values=signal).to_numpy(float)
    y = found.pivot(index="seed", columns="round", values=target).to_numpy(float)
    value = _within_rounds(x, y)
    if value is None:
        return {}
    rng = np.random.default_rng(0)
    drawn = [_within_rounds(x[rows], y[rows]) for rows in rng.integers(len(x), size=(min(draws, 300), len(x)))]
    low, high = np.quantile([d for d in drawn if d is not None], [0.025, 0.975])
    return {name: value, f"{name} low": float(low), f"{name} high": float(high)}


def _within_rounds(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float | None:
    if not np.isnan(x).any() and not np.isnan(y).any() and len(x) >= _FEWEST:
        one, other = rankdata(x, axis=0), rankdata(y, axis=0)
        one, other = one - one.mean(0), other - other.mean(0)
        scale = np.sqrt((one**2).sum(0) * (other**2).sum(0))
        return float(((one * other).sum(0)[scale > 0] / scale[scale > 0]).mean()) if (scale > 0).any() else None
    found = []
    for a, b in zip(x.T, y.T, strict=True):
        there = ~np.isnan(a) & ~np.isnan(b)
        if there.sum() >= _FEWEST:
            one, other = rankdata(a[there]), rankdata(b[there])
            if one.std() > 0 and other.std() > 0:
                found.append(float(np.corrcoef(one, other)[0, 1]))
    return float(np.mean(found)) if found else None
