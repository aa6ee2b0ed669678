"""`python -m benchmarks`: measures, writes benchmarks/results.json, and puts the table into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import driver, extras, profiling, results, surroundings
from benchmarks.progress import EXTRA_S, Progress, expected
from benchmarks.shapes import EXTRAS, SHAPES, WORKLOADS, plan_of
from benchmarks.worker import THREADS
from rlback.errors import ConfigError, RlbackError, StageError

RESULTS = driver.ROOT / "benchmarks" / "results.json"
DOCUMENT = driver.ROOT / "docs" / "benchmarks.md"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    try:
        options = _options(arguments)
        if options.table:
            return _table(options)
        return _profile(options) if options.profile else _measure(options)
    except RlbackError as error:
        print(f"benchmarks: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"            {error.remedy}", file=sys.stderr)
        return error.exit_code


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ",".join((*WORKLOADS, *EXTRAS))
    parser.add_argument("--only", default="", metavar="NAMES", help=f"some of {names}; joins the figures that are there")
    parser.add_argument("--shape", choices=(*SHAPES, "both"), default="both")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each side (default: 9 small, 4 at 25m)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="default: benchmarks/results.json")
    parser.add_argument("--table", action="store_true", help="only print the table of the results, and renew it in docs/")
    parser.add_argument("--profile", action="store_true", help="only print where the time of our steps goes")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of --profile")
    options = parser.parse_args(arguments)
    options.names = [name for name in options.only.split(",") if name] or [*WORKLOADS, *EXTRAS]
    unknown = sorted(set(options.names) - {*WORKLOADS, *EXTRAS})
    if unknown:
        raise ConfigError(f"--only: there is no benchmark {', '.join(unknown)}", remedy=f"there are {names}")
    if options.repeats is not None and options.repeats < 1:
        raise ConfigError(f"--repeats is {options.repeats}", remedy="give 1 or more")
    options.shapes = list(SHAPES) if options.shape == "both" else [options.shape]
    return options


def _measure(options: argparse.Namespace) -> int:
    whole = not options.only and options.shape == "both"
    commit = surroundings.commit(driver.ROOT)
    found: dict[str, Any] = {
        "cpu": surroundings.cpu(), "versions": surroundings.versions(), "threads": THREADS, "commit": commit,
        "commits": {}, "samples": {},
    }  # fmt: skip
    old = None if whole else results.read(options.out)
    results.check_mergeable(old, found, str(options.out))  # now, and not after the measurement
    workloads = [(name, shape) for shape in options.shapes for name in options.names if name in WORKLOADS]
    others = [name for name in options.names if name in EXTRAS]
    spans = {(name, shape): expected(name, shape, plan_of(shape, options.repeats)) for name, shape in workloads}
    progress = Progress(sum(spans.values()) + sum(EXTRA_S[name] for name in others), quiet=options.json)
    for name, shape in workloads:
        progress.begin(f"{name} {shape}", spans[name, shape])
        figures = _one_workload(name, shape, options.repeats, found["samples"], progress)
        found |= figures
        found["commits"] |= dict.fromkeys(figures, commit)
    for name in others:
        progress.begin(name, EXTRA_S[name])
        figures, found["samples"][name] = extras.measure(name)
        found |= figures
        found["commits"] |= dict.fromkeys(figures, commit)
    progress.end()
    if not found["commits"]:
        raise StageError("nothing was measured, and nothing is written")
    content = results.merge(old, found, str(options.out))
    results.write(options.out, content)
    if options.out == RESULTS:
        _renew(content)
    print(json.dumps(content, indent=1, sort_keys=True) if options.json else results.table(content))
    return 0


def _one_workload(
    name: str, shape: str, repeats: int | None, samples: dict[str, Any], progress: Progress
) -> dict[str, float]:
    try:
        sample = driver.measure(name, shape, plan_of(shape, repeats), progress)
    except driver.Unavailable as error:
        progress.note(f"{name} {shape} is left out: {error}")
        return {}
    samples[results.sample_key(name, shape)] = sample
    sample["cpu_ratio"] = round(results.median_of_ratios(sample["peer"]["cpu"], sample["ours"]["cpu"]), 3)
    if (quiet := driver.quietness(sample)) < driver.QUIET:
        progress.note(
            f"{name} {shape}: the processor was ours for {quiet:.0%} of the time only, and figures want a quiet machine; "
            f"by processor time the ratio is {sample['cpu_ratio']:.2f}"
        )
    sides = ("ours", "peer", "floor", "onednn_floor")
    return results.figures(name, shape, {side: sample[side]["turns"] for side in sides if side in sample})


def _profile(options: argparse.Namespace) -> int:
    found: dict[str, Any] = {}
    for shape in options.shapes:
        for name in options.names:
            if name not in WORKLOADS:
                continue
            try:
                steps = options.repeats or (5 if shape == "small" else 2)
                found[f"{name} {shape}"] = driver.profile(name, shape, options.precision, steps)
            except driver.Unavailable as error:
                print(f"{name} {shape} is left out: {error}", file=sys.stderr)
                continue
            if not options.json:
                one = found[f"{name} {shape}"]
                print(profiling.text(f"{name} {shape} {options.precision}", one["steps"], one, one["floors"]), flush=True)
    if options.json:
        print(json.dumps(found))
    return 0


def _table(options: argparse.Namespace) -> int:
    content = results.read(options.out)
    if content is None:
        raise ConfigError(f"there is no {options.out}", remedy="measure first: make bench")
    if options.out == RESULTS:
        _renew(content)
    print(results.table(content))
    return 0


def _renew(content: dict[str, Any]) -> None:
    """Puts the table of these results into docs/benchmarks.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(results.into_document(text, content), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
