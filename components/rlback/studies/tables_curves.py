"""How gold bends: which form fits it and which predicts what lies beyond, and what each refresh adds to its peak."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from rlback.maths.aggregate import interquartile_mean, paired_bootstrap
from rlback.maths.overoptimisation import FORMS, extrapolation_error, fit
from rlback.studies.reading import Results, Table, finals_of

#: Distances below it are left out: the form for RL is not meant for them.
_LEAST = 0.2
#: Share of the points, the nearest ones, from which the rest is predicted.
NEAR = 0.6
_ARMS = ("vanilla", "vanilla-up-front", "vanilla-wco", "vanilla-uwo", "dpo-offline")


def bends(results: Results) -> Table:
    """Which published form fits gold against distance, seed by seed, on the arms of one long round."""
    rows = []
    for setting in results.settings:
        for arm in [a for a in _ARMS if a in results.there(setting)]:
            wins, beyond, peaks = dict.fromkeys(FORMS, 0), dict.fromkeys(FORMS, 0), []
            errors: dict[str, list[float]] = {form: [] for form in FORMS}
            left = 0
            for _, run in results.of(setting, arm, "step").groupby("seed"):
                # A run that diverged is a curve that ends where it was last sound.
                run = run[run["status"] == "ok"]
                d, g = np.sqrt(run["kl"].to_numpy(float)), run["gold"].to_numpy(float)
                sound = np.isfinite(d) & np.isfinite(g) & (d > _LEAST)
                d, g = d[sound], g[sound]
                near = d <= np.quantile(d, NEAR) if len(d) else np.zeros(0, bool)
                # A policy that stands still at the end has its furthest distance many times, and nothing beyond it.
                if len(np.unique(d)) < 8 or len(np.unique(d[near])) < 3 or near.all():
                    left += 1
                    continue
                curves = {form: fit(d, g, form) for form in FORMS}
                wins[min(FORMS, key=lambda form: curves[form].aicc)] += 1
                missed = {form: extrapolation_error(d, g, form, share=NEAR) for form in FORMS}
                beyond[min(FORMS, key=lambda form: missed[form])] += 1
                for form in FORMS:
                    errors[form].append(missed[form])
                peak = curves["best_of_n"].peak
                peaks.append(peak[0] if peak else math.nan)
            interior = [p for p in peaks if not math.isnan(p)]
            row: dict[str, Any] = {"setting": setting, "arm": arm, **{f"best {form}": wins[form] for form in FORMS}}
            row |= {f"best beyond {form}": beyond[form] for form in FORMS}
            row |= {f"error {form}": float(np.median(errors[form])) if errors[form] else math.nan for form in FORMS}
            row |= {"interior peaks": len(interior), "median peak d": float(np.median(interior)) if interior else math.nan}
            rows.append(row | {"too short": left})
    note = (
        "seeds for which each form has the lowest AICc over points with d above 0.2, and for which it predicts the two fifths "
        "of points furthest off best from the others; error: median of the root mean square error there, in gold; d is the "
        "square root of the KL; saturating is the null that never falls"
    )
    return Table("overoptimisation", "How gold bends with distance", note, rows)


def refreshes(results: Results) -> Table:
    """Highest gold on the way with the first k reward models, beside k times that of the first one."""
    rows = []
    for setting in results.settings:
        for arm in [a for a in ("long-rounds", "take-last", "from-base") if a in results.there(setting)]:
            peaks = _peaks(results, setting, arm)
            first = peaks[0] if peaks else np.zeros(0)
            for k, peak in enumerate(peaks, 1):
                row: dict[str, Any] = {"setting": setting, "arm": arm, "reward models": k, "peak": interquartile_mean(peak)}
                if len(peak) > 1:
                    own = paired_bootstrap(peak, np.zeros_like(peak), draws=results.draws)
                    row |= {"peak low": own.low, "peak high": own.high}
                    gain = paired_bootstrap(peak, peaks[k - 2] if k > 1 else np.zeros_like(peak), draws=results.draws)
                    short = paired_bootstrap(peak, k * first, draws=results.draws)
                    for name, found in (("gain", gain), ("less k times the first", short)):
                        row |= {name: found.value, f"{name} low": found.low, f"{name} high": found.high}
                rows.append(row)
    note = (
        "peak: interquartile mean over seeds of the gold at the place up to round k where the mean of the other seeds is "
        "highest; under the published form for iterated RLHF it is k times the first one's; gain: over one model fewer"
    )
    return Table("refreshes", "Peak gold by number of reward models", note, rows)


def _peaks(results: Results, setting: str, arm: str) -> list[np.ndarray[Any, Any]]:
    """For each number of rounds, the gold of each seed where the others are highest, (seeds,)."""
    rows = results.of(setting, arm, "step", "candidate")
    sound = rows.assign(gold=np.where(rows["status"] == "ok", rows["gold"], np.nan))
    grid = sound.pivot_table(index="seed", columns=["round", "step"], values="gold", aggfunc="last")
    ends = finals_of(results.kept, setting, arm)["gold"]
    if len(grid) < 2:
        return []
    # A run that diverged stands where it was kept.
    golds = grid.apply(lambda column: column.fillna(ends))
    found = []
    for k in sorted(set(golds.columns.get_level_values(0))):
        near: pd.DataFrame = golds.loc[:, golds.columns.get_level_values(0) <= k]
        values = near.to_numpy()
        others = (values.sum(0) - values) / (len(values) - 1)
        found.append(values[np.arange(len(values)), others.argmax(1)])
    return found
