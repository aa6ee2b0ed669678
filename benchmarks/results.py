"""From timings to results.json and the table: medians, what may stand side by side, and writing without a torn file."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, WORKLOADS
from rlback.errors import ConfigError, DataError

#: Figures of different values of these never stand in one file.
CIRCUMSTANCES = ("cpu", "versions", "threads")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
EXTRA_FIGURES = {
    "help_seconds": "`rlback --help`",
    "import_seconds": "importing the training side (`rlback.training.on_policy`) in a new process",
    "checkpoint_cost_s": "keeping the training state of the small model once (weights and moments, flushed to the disk)",
    "campaign_outside_share": "share of a demo campaign's time outside training, sampling and scoring",
    "campaign_outside_share_started": "the same from the first training on, without imports and the start of Prefect and MLflow",
}


def suffix(shape: str) -> str:
    """What a figure's key ends in: nothing for the small shape."""
    return "" if shape == "small" else f"_{shape}"


def sample_key(workload: str, shape: str) -> str:
    """Where a workload's raw timings stand under `samples`."""
    return workload + suffix(shape)


def peer_of(workload: str) -> str:
    """Whom a workload is compared with, as in the figure's key."""
    return "hf" if workload == "generate" else "trl"


def median_of_ratios(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> float:
    """Median over turns of (median seconds of `above`) / (median seconds of `below`); a turn is a list of steps.

    The two of one turn were taken within seconds of each other, so a machine that slows down for a while slows
    both. Raises DataError when there are no turns, or not as many on each side.
    """
    if not above or len(above) != len(below):
        raise DataError(
            f"{len(above)} turns cannot be compared with {len(below)}", remedy="run the benchmark again, both sides in turn"
        )
    return statistics.median(
        statistics.median(a) / statistics.median(b) for a, b in zip(above, below, strict=True)
    )


def figures(workload: str, shape: str, turns: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """The ratios of one workload from `turns` of ours and of the other sides. Above 1: ours is faster."""
    end = suffix(shape)
    names = {"peer": peer_of(workload), "floor": "floor", "onednn_floor": "onednn_floor"}
    return {
        f"{workload}_vs_{name}{end}": round(median_of_ratios(turns[side], turns["ours"]), 3)
        for side, name in names.items()
        if side in turns
    }


def check_mergeable(old: Mapping[str, Any] | None, new: Mapping[str, Any], place: str) -> None:
    """Refuse to put figures beside those of another processor, other versions or another number of threads.

    Raises ConfigError naming what differs. Commits may differ: `commits` names each figure's.
    """
    for name in CIRCUMSTANCES if old is not None else ():
        if old.get(name) != new[name]:
            raise ConfigError(
                f"{place} holds figures of other {name} ({_difference(old.get(name), new[name])}), and such do not stand "
                "side by side",
                remedy="measure everything again without --only and --shape, or write elsewhere with --out FILE",
            )


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        return ", ".join(f"{name} {old.get(name)}, now {new.get(name)}" for name in names)
    return f"{old}, now {new}"


def merge(old: Mapping[str, Any] | None, new: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`old` with the figures and samples of `new` put in; each figure keeps the commit it was measured at.

    Raises ConfigError as `check_mergeable` does.
    """
    check_mergeable(old, new, place)
    if old is None:
        return dict(new)
    joined = {name: {**old.get(name, {}), **new[name]} for name in ("samples", "commits")}
    return {**old, **new, **joined}


def read(path: Path) -> dict[str, Any] | None:
    """The results in a file, None where there is no file. Raises DataError for what is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}", remedy="remove it and measure again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object", remedy="remove it and measure again")
    return content


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write results as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def table(content: Mapping[str, Any]) -> str:
    """Results as Markdown: one table of ratios, one of seconds, and the circumstances. Same results, same text."""
    samples = content["samples"]
    measured = list(_measured(content))
    header = [
        "| workload | shape | ours, s | peer, s | floor, s | times as fast as the peer | share of the floor "
        "| of oneDNN's floor | ours, peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines = header if measured else []
    for workload, shape in measured:
        sides = samples[sample_key(workload, shape)]
        seconds = (_typical(sides[side]["turns"]) for side in ("ours", "peer", "floor"))
        end = suffix(shape)
        ratios = [f"{content[f'{workload}_vs_{name}{end}']:.2f}" for name in (peer_of(workload), "floor")]
        second = content.get(f"{workload}_vs_onednn_floor{end}")
        lines.append(
            f"| {workload} | {shape} | {' | '.join(f'{s:.3g}' for s in seconds)} | **{ratios[0]}** | {ratios[1]} "
            f"| {'-' if second is None else f'{second:.2f}'} | {sides['ours']['variant']}, {sides['peer']['variant']} |"
        )
    extras = [f"| {text} | {content[key]:.3g} |" for key, text in EXTRA_FIGURES.items() if key in content]
    if extras:
        lines += [*([""] if lines else []), "| | seconds or share |", "|---|---|", *extras]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(content["versions"].items()))
    commits = ", ".join(sorted({commit[:12] + commit[40:] for commit in content["commits"].values()}))
    cpu = f"{content['cpu']['model']} ({content['cpu']['cores']} cores)"
    return "\n".join([*lines, "", f"{cpu}, {content['threads']} thread; {versions}; commit {commits}."])


def into_document(text: str, content: Mapping[str, Any]) -> str:
    """`text` with the table between its two marks. Raises DataError when the marks are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError("the document has no place for the figures", remedy=f"put {BEGIN} and {END} into it")
    return f"{before}{BEGIN}\n{table(content)}\n{END}{after}"


def _measured(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for shape in SHAPES:
        for workload in WORKLOADS:
            if sample_key(workload, shape) in content["samples"]:
                yield workload, shape


def _typical(turns: Sequence[Sequence[float]]) -> float:
    return statistics.median(statistics.median(turn) for turn in turns)
