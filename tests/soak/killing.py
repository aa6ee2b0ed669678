"""What kills processes of `rlback`, and what is looked at before and after: used by `kill_campaign` and `kill_people`.

Everything goes through the command line. Only what a project holds in the end is read from its ledger's file, as another
program would read it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The one finding that a kill may leave: `rlback advance` is documented to mend it (docs/architecture.md).
MIRROR_LAGS = "rlback advance mends them"
#: What differs between two undisturbed runs: MLflow draws its ids, and files lie in the project's own directory.
DRAWN = {"model_id", "location"}


@dataclass
class Tally:
    """What was done and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    late: int = 0  # commands that had ended before their moment came
    lagging: int = 0  # kills after which the registry's aliases lagged behind the ledger's
    doubled: Counter[str] = field(default_factory=Counter)  # events that a repeated command recorded once more
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Notes something that must not be, and says it at once."""
        self.wrong.append(what)
        print(f"  WRONG: {what}", flush=True)


class Rlback:
    """The command line on one project; every command is a process group of its own, with whatever it starts in it."""

    def __init__(self, root: Path, engine: str = "inline") -> None:
        self.root, self.engine = root, engine
        hidden = ("RLBACK_PROJECT", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "DVC_SITE_CACHE_DIR")
        self.environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command; its output is read or left in `.killed.log` beside the project."""
        command = [sys.executable, "-m", "rlback", "--project", str(self.root), *arguments]
        return subprocess.Popen(command, env=self.environment, start_new_session=True, **options)

    def run(self, *arguments: str, keys: str = "", timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self.start(*arguments, **pipes)
        try:
            out, err = process.communicate(keys, timeout)
        except subprocess.TimeoutExpired:
            kill(process)
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def init(self) -> None:
        """Makes the project."""
        subprocess.run(
            [sys.executable, "-m", "rlback", "init", str(self.root)], env=self.environment, check=True, stdout=subprocess.DEVNULL
        )

    def verify(self) -> list[dict[str, str]]:
        """The findings of `rlback verify --json`."""
        done = self.run("verify", "--json")
        try:
            found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
        except ValueError:
            return [{"where": "verify itself", "what": (done.stderr or done.stdout)[-600:], "remedy": ""}]
        return found


def kill(process: subprocess.Popen[Any]) -> bool:
    """SIGKILL to the whole process group; False where its leader had ended."""
    ended = process.poll() is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not ended


# -- moments ------------------------------------------------------------------------------------------------------


def _listing(*places: Path) -> frozenset[tuple[str, int, int]]:
    return frozenset(_entries(places))


def _entries(places: tuple[Path, ...]) -> Iterator[tuple[str, int, int]]:
    for place in places:
        try:
            if place.is_dir():
                with os.scandir(place) as found:
                    yield from _entries(tuple(Path(entry.path) for entry in found))
            status = place.lstat()
            yield (str(place), status.st_size, status.st_mtime_ns)
        except OSError:  # it went while we looked
            continue


#: A moment is what the process has just touched, and for how many seconds at most it is left to go on.
TOUCHED: dict[str, tuple[tuple[str, ...], float]] = {
    "dvc": ((".dvc/cache", ".dvc/tmp", "data.dvc"), 0.15),
    "mlflow": (("mlruns/artifacts",), 0.08),
    "mlflow-database": (("mlruns/mlflow.db", "mlruns/mlflow.db-wal", "mlruns/.mlflow.db.part"), 0.05),
    "ledger": ((".rlback/ledger.db-wal", ".rlback/ledger.db"), 0.02),
    "heads": (("mlruns/ledger-heads.jsonl",), 0.05),
    "snapshot": ((".rlback/snapshots", ".rlback/manifests", "data"), 0.05),
    "work": ((".rlback/work",), 0.4),
    "prefect-start": ((".prefect/server.log",), 6.0),
    "prefect-database": ((".prefect/prefect.db", ".prefect/prefect.db-wal", ".prefect/prefect.db-journal"), 2.0),
}
ANY_ENGINE = ("uniform", "first-second", "dvc", "mlflow", "mlflow-database", "ledger", "heads", "snapshot", "work")


def await_moment(process: subprocess.Popen[Any], root: Path, moment: str, seconds: float, rng: random.Random) -> None:
    """Returns at the moment, or when the process has ended; `seconds` is how long an undisturbed run takes."""
    if moment in ("uniform", "first-second"):
        until = time.monotonic() + rng.uniform(0.0, seconds if moment == "uniform" else 1.0)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        return
    names, longest = TOUCHED[moment]
    places = [root / name for name in names]
    before, passing = _listing(*places), rng.choice((0, 0, 1, 2, 5))
    until = time.monotonic() + seconds + 60
    while process.poll() is None and time.monotonic() < until:
        now = _listing(*places)
        if now != before:
            if passing == 0:
                break
            before, passing = now, passing - 1
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, longest) * rng.choice((0.0, 0.2, 1.0)))


# -- what a project holds -----------------------------------------------------------------------------------------


def rows_of(root: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / ".rlback" / "ledger.db", timeout=30)) as database:
        return database.execute(query).fetchall()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(inner) for key, inner in value.items() if key not in DRAWN}
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def campaign_state(root: Path) -> str | None:
    """State of the project's one campaign; None where it has none."""
    try:
        found = rows_of(root, "SELECT state FROM campaigns")
    except sqlite3.OperationalError:  # the tables are not there yet
        return None
    return str(found[0][0]) if found else None


def held(rlback: Rlback) -> dict[str, Any]:
    """All that is to be the same as in an undisturbed run: versions, data versions, labels, stages, decisions, events."""
    root = rlback.root
    listed = json.loads(rlback.run("registry", "list", "--json").stdout)
    kept = ("checkpoint", "status", "aliases", "digest", "round", "parent")
    outputs = {
        f"{round_} {stage} {attempt}": _lasting(json.loads(output))
        for round_, stage, attempt, output in rows_of(root, "SELECT round, stage, attempt, output FROM stages")
    }
    return {
        "versions": [{key: row[key] for key in kept} for row in listed],
        "stages": outputs,  # digests of reward models and step checkpoints, MD5 and SHA-256 of data versions
        "labels": rows_of(root, "SELECT comparison, annotator, verdict, left_side, revision FROM labels ORDER BY id"),
        "decisions": rows_of(root, "SELECT gate, verdict, approver, reason, evidence_digest FROM decisions ORDER BY gate"),
        "campaigns": rows_of(root, "SELECT name, state, finish_reason, kept_version FROM campaigns"),
        # A mirror that lagged is moved later, by `advance`; that is recorded, and in another place.
        "events": rows_of(root, "SELECT kind, subject FROM events WHERE kind != 'alias.mirrored' ORDER BY seq"),
    }


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where two of `held` differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            yield from differences(ours.get(key), theirs.get(key), f"{where} {key}".strip())
    elif ours != theirs:
        yield f"{where}: {str(ours)[:160]} here, {str(theirs)[:160]} undisturbed"


def left_over(root: Path) -> list[str]:
    """What a finished project holds of stages under way: half-written files, weights in work/, what MLflow has and we not."""
    found = [str(path.relative_to(root)) for pattern in ("*.part", "*.tmp") for path in root.rglob(pattern)]
    found += [str(path.relative_to(root)) for path in (root / ".rlback" / "work").rglob("*") if path.is_file()]
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db", timeout=30)) as database:
        theirs = set(database.execute("SELECT name, version FROM model_versions").fetchall())
        open_models = database.execute("SELECT model_id, status FROM logged_models WHERE status != 2").fetchall()
    ours = set(rows_of(root, "SELECT policy, version FROM versions"))
    found += [f"MLflow version {policy}@{version} is not in the ledger" for policy, version in sorted(theirs - ours)]
    return found + [f"MLflow model {model} has status {status}" for model, status in open_models]


def judge(tally: Tally, findings: list[dict[str, str]], when: str, *, just_killed: bool = True) -> None:
    """Sorts findings of verify: after a kill, the registry's aliases may lag, and nothing else."""
    lagging = [f for f in findings if just_killed and f["remedy"] == MIRROR_LAGS]
    tally.lagging += bool(lagging)
    for finding in findings:
        if finding not in lagging:
            tally.note(f"verify {when}: {finding['where']}: {finding['what']}")


def traceback_in(text: str) -> bool:
    """Whether a command printed a traceback of Python's."""
    return "Traceback (most recent call last)" in text


Say = Callable[[str], None]
