"""The project directory: where everything of one project lies, and how to find it.

    data/ data.dvc     source data under DVC, with its pointer
    mlruns/            MLflow: mlflow.db, artifacts/ (all weights), ledger-heads.jsonl
    .rlback/           ledger.db, signing.key, work/ (stages under way), snapshots/, manifests/, locks/
    .prefect/ .dvc/    what Prefect and DVC keep
    reports/           what is shown to people

A directory is a project when it holds `data.dvc` or `.rlback/`. Nothing is written outside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlback.disks import full_disk, sweep
from rlback.errors import Held, ProjectError, StageError
from rlback.ledger.address import read_address
from rlback.ledger.heads import Heads
from rlback.ledger.store import Store

LEAST_FREE_BYTES = 200 * 1024 * 1024
SPACE_REMEDY = "free some space, then run `rlback advance`; nothing recorded is lost"

#: No telemetry from any of the tools, no code from model files, all their state inside the project.
TOOL_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Project:
    """One project directory (`root`, absolute)."""

    root: Path

    @property
    def state(self) -> Path:
        """`.rlback/`: the ledger and the work under way."""
        return self.root / ".rlback"

    @property
    def data(self) -> Path:
        """`data/`: source data under DVC."""
        return self.root / "data"

    @property
    def configs(self) -> Path:
        """`configs/`: the campaigns' configuration files."""
        return self.root / "configs"

    @property
    def logs(self) -> Path:
        """`.rlback/logs/`: what the processes of `rlback up` print, a file each."""
        return self.state / "logs"

    @property
    def reports(self) -> Path:
        """`reports/`: what is shown to people."""
        return self.root / "reports"

    @cached_property
    def store(self) -> Store:
        """The ledger's database, opened on first use: where `ledger.address` says, or a SQLite file of the project's own."""
        heads = Heads(self.root / "mlruns" / "ledger-heads.jsonl", self.state / "signing.key")
        url = read_address(self.root)
        return Store(url, heads) if url else Store.sqlite(self.state / "ledger.db", heads)

    def work(self, campaign: str, round_: int, stage: str, attempt: int) -> Path:
        """The directory of one stage while it is under way; removed once its output is recorded."""
        directory = self.state / "work" / campaign / _work_name(round_, stage, attempt)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def sweep_work(self, campaign: str, recorded: Collection[tuple[int, str, int]]) -> None:
        """Removes what stages left behind that were killed: half-written files, and all of one that was recorded by then."""
        for place in (self.state / "work" / campaign, self.root / "mlruns" / "artifacts" / campaign):
            sweep(place)
        names = {_work_name(*key) for key in recorded}
        for directory in (self.state / "work" / campaign).glob("*"):
            if directory.name in names:
                shutil.rmtree(directory, ignore_errors=True)

    def relative(self, path: Path) -> str:
        """A path as stored: relative to the project where it lies inside it, so a project can be moved."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def absolute(self, stored: str) -> Path:
        """The path that `relative` stored."""
        return self.root / stored

    @contextmanager
    def lock(self, name: str, what: str, *, wait: bool = False) -> Iterator[None]:
        """Holds a named lock that ends with the process, however it ends.

        Raises:
            Held: another process holds it and `wait` is not set.
        """
        path = self.state / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise Held(
                    f"{what} is already running in {holder}",
                    remedy="wait for it to end (`rlback status` shows how far it is), or end that process",
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()}")
            handle.flush()
            yield

    def require_space(self, least: int = LEAST_FREE_BYTES) -> None:
        """Refuses to start a stage on a disk with fewer than `least` bytes free.

        Raises:
            StageError: names the disk, what is free and what is needed.
        """
        free = shutil.disk_usage(self.root).free
        if free < least:
            raise StageError(
                f"only {free // 2**20} MiB are free on the disk of {self.root}; a stage needs at least {_mib(least)}",
                remedy=SPACE_REMEDY,
            )

    @contextmanager
    def naming_full_disk(self, least: int = LEAST_FREE_BYTES) -> Iterator[None]:
        """Makes one error of whatever the libraries inside the block make of a full disk.

        Raises:
            StageError: the disk, or a quota on it, was full; names the project, the file that is known, and the bytes
                that must be free to go on.
        """
        try:
            yield
        except Exception as error:
            full = full_disk(error, self.root)
            if full is None:
                raise
            where = f"the disk of {self.root} is full{full.said}; to go on, at least {_mib(least)} must be free"
            raise StageError(where, remedy=SPACE_REMEDY) from error


def _mib(size: int) -> str:
    return f"{-(-size // 2**20)} MiB"


def _work_name(round_: int, stage: str, attempt: int) -> str:
    return f"{round_:03d}-{stage}-{attempt}"


def enter_environment(root: Path) -> None:
    """Sets the environment under which Prefect, MLflow and DVC keep to the project and to themselves."""
    for key, value in TOOL_ENVIRONMENT.items():
        os.environ[key] = value
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    # What a stage raises is told once, by the command; Prefect would print the traceback before it.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(root / ".dvc" / "site-cache"))


def find_project(start: Path | None = None) -> Project:
    """The project that holds a directory: `RLBACK_PROJECT`, or the nearest parent that is one.

    Raises:
        ProjectError: there is none.
    """
    named = os.environ.get("RLBACK_PROJECT")
    origin = Path(named) if named else (start or Path.cwd())
    origin = origin.resolve()
    for directory in [origin] if named else [origin, *origin.parents]:
        if (directory / "data.dvc").is_file() or (directory / ".rlback").is_dir():
            enter_environment(directory)
            return Project(directory)
    raise ProjectError(
        f"{origin} is not in an rlback project (no data.dvc or .rlback/ here{'' if named else ' or above'})",
        remedy="change to the project's directory, name it with --project DIR, or make one: rlback init DIR",
    )


def make_project(root: Path) -> Project:
    """Makes a new, empty project directory; an existing one is left as it is.

    Raises:
        ProjectError: the place is a file, or cannot be written.
    """
    try:
        (root / ".rlback").mkdir(parents=True, exist_ok=True)
        (root / "mlruns").mkdir(exist_ok=True)
    except OSError as error:
        raise ProjectError(f"cannot make a project at {root}: {error.strerror}", remedy="name another directory") from None
    enter_environment(root.resolve())
    project = Project(root.resolve())
    assert project.store is not None
    return project
