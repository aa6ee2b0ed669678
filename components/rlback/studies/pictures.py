"""Figures of a study, as PNG and SVG from one drawing.

By matplotlib, not the hand-drawn SVG of campaign reports: a study's figures are also wanted as PNG, which those cannot
give without a browser.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ARMS = ("vanilla", "take-last", "from-base", "rollback-once", "rollback-until-approved", "rollback-ladder", "gold")
COLOURS = ("#b3093c", "#0063a8", "#00795a", "#9c3f86", "#bf4a06", "#806000", "#4f5d6e")
MARKS = ("x", "o", "s", "^", "D", "v", "*")


def draw(frame: pd.DataFrame, directory: Path) -> dict[str, list[Path]]:
    """Figures as name to files. Each setting has its own: gold against distance, and gold against labels."""
    directory.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[Path]] = {}
    for setting, rows in frame.groupby("setting", sort=False):
        figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
        for arm, colour, mark in zip(ARMS, COLOURS, MARKS, strict=True):
            mine = rows[rows["arm"] == arm]
            if len(mine):
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
        figure.suptitle(f"{setting}: mean over {rows['seed'].nunique()} seeds")
        files = [directory / f"{setting}.{kind}" for kind in ("svg", "png")]
        for file in files:
            figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
        plt.close(figure)
        made[str(setting)] = files
    return made


def _curve(axis, rows: pd.DataFrame, arm: str, colour: str) -> None:  # type: ignore[no-untyped-def]
    points = rows[rows["point"].isin(["step", "candidate"])]
    grouped = points.assign(d=np.sqrt(points["kl"])).groupby(["round", "attempt", "step"])[["d", "gold"]].mean()
    for _, part in grouped.groupby(["round", "attempt"]):
        axis.plot(part["d"], part["gold"], color=colour, linewidth=1.2, label=arm)


def _costs(axis, rows: pd.DataFrame, cost: str, arm: str, colour: str, mark: str) -> None:  # type: ignore[no-untyped-def]
    """Mean gold of the kept policy at a cost: every run stands at its last kept row until the next."""
    kept = rows[rows["point"] == "kept"].sort_values(["seed", "updates", "labels"])
    grid = np.unique(kept[cost].to_numpy())
    if len(grid) > 40:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, 40)))
    values = []
    for _, run in kept.groupby("seed"):
        at = np.searchsorted(run[cost].to_numpy(), grid, side="right") - 1
        values.append(np.where(at >= 0, run["gold"].to_numpy()[np.maximum(at, 0)], 0.0))
    axis.plot(grid, np.mean(values, 0), color=colour, marker=mark, markersize=4, linewidth=1.4, label=arm)
