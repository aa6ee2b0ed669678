"""`rlback study CONFIG` and `rlback study show [NAME]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rlback.cli.output import next_command, say
from rlback.errors import ConfigError, ProjectError, StageError


def study(options: argparse.Namespace) -> int:
    """Runs what is missing of a study, then writes its table, figures and report; `show` prints what came out."""
    if options.config == "show":
        return show(options)
    if options.config == "claims":
        from rlback.cli.claims import claims

        return claims(options)
    if options.name is not None:
        raise ConfigError(
            f"{options.name!r}: only `study show` and `study claims` take a second word", remedy="rlback study show NAME"
        )
    from rlback.config import read_tree
    from rlback.studies import units
    from rlback.studies.config import check_study

    tree = read_tree(Path(options.config), "study", "configs/studies/")
    _take_data(tree, options)
    found = check_study(tree, options.config)
    if options.seeds is not None:
        if options.seeds < 1:
            raise ConfigError("--seeds must be 1 or more")
        found = found.with_seeds(options.seeds)
    out = Path(options.out).absolute() if options.out else _home() / found.name
    everything = units.units_of(found, out)
    todo = units.missing(everything)
    workers = options.workers or found.keys.workers or max(1, os.cpu_count() or 1)
    if options.dry_run:
        return _plan(options, found, out, everything, todo, workers)
    from rlback.orchestration.studies import run

    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    project = _project() if options.engine == "prefect" else None
    with _only_one(out), _progress(options, found.name) as told:
        run(project, found, tree, out, workers, told)
        table = units.collected(everything, out)
        from rlback.studies.publishing import publish

        results = publish(table, found, out)
    seconds = time.monotonic() - began
    if options.json:
        print(json.dumps({
            "study": found.name, "rows": table.num_rows, "units": len(everything), "computed": len(todo),
            "seconds": round(seconds, 1), "results": str(out / "results.parquet"), "report": str(results),
        }))  # fmt: skip
        return 0
    say(f"{found.name}: {len(everything)} units ({len(todo)} computed now, {seconds:.0f} s), {table.num_rows:,} rows")
    say(f"  table   {out / 'results.parquet'}")
    say(f"  report  {results}")
    next_command(f"rlback study show {found.name if not options.out else '--out ' + str(out)}")
    return 0


def _take_data(tree: dict[str, Any], options: argparse.Namespace) -> None:
    """Puts paths named on the command line where the study's file could have named them."""
    for key in ("pairs", "text"):
        path = getattr(options, key)
        if path is not None:
            settings = tree.setdefault("world_settings", {})
            if not isinstance(settings, dict):
                raise ConfigError(f"{options.config}: world_settings must be a mapping of keys to values")
            settings[key] = str(Path(path).absolute())


def show(options: argparse.Namespace) -> int:
    """The tables of a study's results: what was asked for, or the primary contrast and what else there is to ask for."""
    out = _shown(options)
    if len(options.against) > 2:
        raise ConfigError(f"--against names {len(options.against)} arms", remedy="name one or two; run it again for others")
    from rlback.studies.publishing import read_published
    from rlback.studies.showing import as_plain, as_text, chosen

    results = read_published(out, draws=options.draws, settings=options.setting, against=options.against)
    asked = options.table or options.arm or options.setting
    wanted = options.table if asked or options.json else ["primary"]
    tables = chosen(results, wanted, options.arm)
    if options.json:
        print(json.dumps(as_plain(tables)))
        return 0
    print(as_text(tables))
    if not asked:
        from rlback.studies.tables import TABLES

        name = f"--out {options.out}" if options.out else out.name
        say(f"settings: {', '.join(results.settings)}")
        say(f"arms: {', '.join(results.frame['arm'].unique())}")
        say(f"tables: {', '.join(TABLES)}")
        next_command(f"rlback study show {name} --table finals --setting {results.settings[0]}")
    return 0


def _shown(options: argparse.Namespace) -> Path:
    if options.out:
        return Path(options.out)
    home = _home()
    there = sorted(p.parent.name for p in home.glob("*/results.parquet"))
    if options.name is None:
        if len(there) == 1:
            return home / there[0]
        raise ConfigError(
            f"{len(there)} studies have results under {home}" + (f": {', '.join(there)}" if there else ""),
            remedy="rlback study show NAME" if there else "run one first: rlback study configs/studies/smoke.yaml",
        )
    from rlback.studies.arms import named

    named(options.name, dict.fromkeys(there), str(home), "study with results")
    return home / str(options.name)


def _home() -> Path:
    project = _project()
    return (project.root if project else Path.cwd()) / "reports" / "studies"


def _project() -> Any:
    from rlback.project import find_project

    try:
        return find_project()
    except ProjectError:
        return None


def _plan(options: argparse.Namespace, found: Any, out: Path, everything: list[Any], todo: list[Any], workers: int) -> int:
    from rlback.studies.expectation import expected

    guess = expected(found, todo, workers, out / "shared")
    seconds = guess.seconds
    if options.json:
        print(json.dumps({
            "study": found.name, "settings": list(found.settings), "arms": list(found.arms), "seeds": len(found.seeds),
            "units": len(everything), "missing": len(todo), "workers": workers, "expected_seconds": round(seconds, 1),
            "beginnings": [{"what": b.what, "expected_seconds": round(b.seconds, 1)} for b in guess.beginnings],
            "inputs": {name: dict(setting.inputs) for name, setting in found.settings.items()}, "out": str(out),
        }))  # fmt: skip
        return 0
    say(f"{found.name}: {len(found.arms)} arms, {len(found.settings)} settings, {len(found.seeds)} seeds")
    device = next((s.inputs["device"] for s in found.settings.values() if "device" in s.inputs), None)
    if device is not None:
        say(f"  device  {device}")
    for beginning in guess.beginnings:
        say(f"  first   {beginning.what}: about {_time(beginning.seconds)}")
    for setting in found.settings:
        here, lacking = ([u for u in units if u.setting == setting] for units in (everything, todo))
        say(f"  {setting}: {len(here)} units ({len(found.arms_in(setting))} arms), {len(here) - len(lacking)} there already")
    say(f"  {len(todo)} of {len(everything)} units to compute, the others' parts are used as they are")
    say(f"  about {_time(seconds)} with {workers} processes (a guess from a short trial on this machine)")
    say(f"  results would go to {out}")
    return 0


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class _only_one:
    """Holds the study's directory: two runs at once would compute everything twice."""

    def __init__(self, out: Path) -> None:
        self._path = out / ".lock"

    def __enter__(self) -> None:
        import fcntl

        self._file = self._path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StageError(
                f"another process runs this study in {self._path.parent}", remedy="wait for it, or give another --out"
            ) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _progress:
    """Units done, and the time left, on standard error; a line now and then where that is no terminal."""

    def __init__(self, options: argparse.Namespace, name: str) -> None:
        self._quiet, self._name, self._began, self._first, self._said = options.json, name, time.monotonic(), -1, 0.0

    def __enter__(self) -> Any:
        self._bar = None
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=None)
        return self.told

    def told(self, done: int, total: int) -> None:
        self._first = done if self._first < 0 else self._first
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif not self._quiet and time.monotonic() - self._said > 15 and done > self._first:
            self._said = time.monotonic()
            left = (self._said - self._began) / (done - self._first) * (total - done)
            print(f"{self._name}: {done} of {total} units, about {_time(left)} left", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
