"""Figures of a study, as PNG and SVG from one drawing.

By matplotlib, not the hand-drawn SVG of campaign reports: a study's figures are also wanted as PNG, which those cannot
give without a browser.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from rlback.maths.aggregate import interquartile_mean

matplotlib.use("Agg")
from matplotlib import pyplot as plt

#: Arms drawn first, each always alike; where a study has fewer of them, arms of its own take the others' places.
ARMS = ("vanilla", "take-last", "from-base", "rollback-once", "rollback-until-approved", "rollback-ladder", "gold")
COLOURS = ("#b3093c", "#0063a8", "#00795a", "#9c3f86", "#bf4a06", "#806000", "#4f5d6e")
MARKS = ("x", "o", "s", "^", "D", "v", "*")
#: Points of the way are drawn where at least this share of the seeds came by: a mean over one or two is a seed's own.
_SEEN_BY = 0.25


def draw(frame: pd.DataFrame, directory: Path) -> dict[str, list[Path]]:
    """Figures as name to files. Each setting has its own: gold against distance, and gold against labels."""
    directory.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[Path]] = {}
    for setting, rows in frame.groupby("setting", sort=False):
        figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
        for arm, colour, mark in drawn_arms(list(rows["arm"].unique())):
            mine = rows[rows["arm"] == arm]
            _curve(axes[0], mine, arm, colour)
            _costs(axes[1], mine, "labels", arm, colour, mark)
            _costs(axes[2], mine, "updates", arm, colour, mark)
        axes[0].set(xlabel="√KL from the base policy", ylabel="gold (sd of the base policy)", title="On the way, kept or not")
        axes[1].set(xlabel="labels, all that influenced anything", title="Kept policy")
        axes[2].set(xlabel="optimiser steps, declined ones too", title="Kept policy")
        for axis in axes:
            axis.axhline(0, color="#999999", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylim(bottom=max(axes[0].get_ylim()[0], -3))
        handles, names = axes[1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{setting}: interquartile mean over {rows['seed'].nunique()} seeds")
        made[str(setting)] = _saved(figure, directory / str(setting))
    return made


def drawn_arms(there: list[str]) -> list[tuple[str, str, str]]:
    """Arm, colour and mark of each line of a figure, at most as many as there are colours."""
    free = iter([arm for arm in there if arm not in ARMS])
    names = [arm if arm in there else next(free, None) for arm in ARMS]
    return [(arm, *look) for arm, *look in zip(names, COLOURS, MARKS, strict=True) if arm is not None]


def draw_approvals(rows: list[dict[str, Any]], directory: Path) -> dict[str, list[Path]]:
    """What asking m times does (tables_gates.approvals), a line for each noise of the approver; nothing without rows."""
    if not rows:
        return {}
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    panels = (
        ("falsely", "Something worse was approved", "share of checkpoints"),
        ("gold change", "What was approved, in truth", "change of gold (sd of the base policy)"),
        ("overstated by", "What he saw overstates", "share of comparisons won, less the expected"),
    )  # fmt: skip
    lines: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["refreshed"], row["noise"]), []).append(row)
    names = list(dict.fromkeys(row["attempts"] for row in rows))
    for (refreshed, noise), colour, mark in zip(lines, COLOURS, MARKS, strict=False):
        mine = lines[refreshed, noise]
        place = [names.index(row["attempts"]) for row in mine]
        what = "refreshed after every no" if refreshed == "true" else "reward model stays"
        for axis, (column, title, unit) in zip(axes, panels, strict=True):
            values = np.array([row[column] for row in mine])
            bars = [values - [row[f"{column} low"] for row in mine], [row[f"{column} high"] for row in mine] - values]
            shift = 0.06 * (list(lines).index((refreshed, noise)) - (len(lines) - 1) / 2)
            axis.errorbar(
                np.array(place) + shift, values, np.maximum(bars, 0), color=colour, marker=mark, markersize=5, linewidth=1.4,
                capsize=2, label=f"{noise:.0%} of looks wrong, {what}", linestyle="-" if refreshed == "true" else "--",
            )  # fmt: skip
            axis.set(xlabel="attempts allowed", ylabel=unit)
            axis.set_title(title, fontsize=11)
            axis.set_xticks(range(len(names)), names)
            axis.axhline(0, color="#999999", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return {"approvals": _saved(figure, directory / "approvals")}


def _saved(figure: Any, place: Path) -> list[Path]:
    files = [place.with_name(f"{place.name}.{kind}") for kind in ("svg", "png")]
    for file in files:
        figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
    return files


def _curve(axis, rows: pd.DataFrame, arm: str, colour: str) -> None:  # type: ignore[no-untyped-def]
    points = rows[rows["point"].isin(["step", "candidate"])]
    grouped = points.assign(d=np.sqrt(points["kl"])).groupby(["round", "attempt", "step"])[["d", "gold"]]
    enough = grouped.count()["gold"] >= _SEEN_BY * rows["seed"].nunique()
    # What diverged has no gold and no place.
    middle = grouped.agg(lambda column: interquartile_mean(column.dropna()) if column.notna().any() else np.nan)[enough]
    for _, part in middle.groupby(["round", "attempt"]):
        axis.plot(part["d"], part["gold"], color=colour, linewidth=1.2, label=arm)


def _costs(axis, rows: pd.DataFrame, cost: str, arm: str, colour: str, mark: str) -> None:  # type: ignore[no-untyped-def]
    """Gold of the kept policy at a cost, interquartile mean over seeds: every run stands at its last kept row until the next."""
    kept = rows[rows["point"] == "kept"].sort_values(["seed", "updates", "labels"])
    grid = np.unique(kept[cost].to_numpy())
    if len(grid) > 40:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, 40)))
    values = []
    for _, run in kept.groupby("seed"):
        at = np.searchsorted(run[cost].to_numpy(), grid, side="right") - 1
        values.append(np.where(at >= 0, run["gold"].to_numpy()[np.maximum(at, 0)], 0.0))
    middle = [interquartile_mean(column) for column in np.array(values).T]
    axis.plot(grid, middle, color=colour, marker=mark, markersize=4, linewidth=1.4, label=arm)
