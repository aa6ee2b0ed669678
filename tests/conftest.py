"""Shared by all tests: tiny projects and campaigns that run in seconds on one core."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlback.ledger.copying import copy_ledger
from rlback.ledger.heads import Heads
from rlback.ledger.store import Store
from rlback.project import TOOL_ENVIRONMENT, Project, make_project
from tests import postgres

# Before any tool is imported: no telemetry, and no thread pools that fight over two cores.
os.environ.update(TOOL_ENVIRONMENT, OMP_NUM_THREADS="1", COLUMNS="200")
ROOT = Path(__file__).resolve().parents[1]

TINY: dict[str, Any] = {
    "name": "tiny",
    "policy": "policy",
    "seed": 1,
    "rounds": 2,
    "source": {"world": "visits"},
    "base": {
        "shape": {"d_model": 16, "layers": 1, "heads": 2, "mlp": 32, "max_positions": 64},
        "training": {"steps": 12, "batch": 16, "lr": 0.01, "warmup": 2},
    },
    "reward_model": {
        "shape": {"pooling": "sum", "surprise": True},
        "training": {"epochs": 1, "batch": 16, "lr": 0.001},
        "reference_samples": 16,
    },
    "optimise": {
        "steps": 4,
        "prompts_per_step": 4,
        "samples_per_prompt": 2,
        "lr": 0.001,
        "beta": 0.02,
        "max_new_tokens": 24,
        "checkpoint_every": 2,
    },
    "labels": {"annotators": "simulated", "initial": 24, "inside": 4, "cross": 12},
    "gate": {"approver": "simulated", "win_rate": 0.5},
    "evaluation": {"prompts": 8},
}


def changed(**sections: Any) -> dict[str, Any]:
    """TINY with some keys replaced; a dict value changes keys inside its section."""
    tree = yaml.safe_load(yaml.safe_dump(TINY))
    for key, value in sections.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            tree[key] |= value
        else:
            tree[key] = value
    return tree


#: A kind of database: a PostgreSQL database that no other test's project is in, for roles and rights.
OWN = "postgresql, its own"


#: For a module whose tests are to hold on both databases: `kind = on_both` overrides the fixture of that name.
@pytest.fixture(params=["sqlite", "postgresql"])
def on_both(request: pytest.FixtureRequest) -> str:
    """Runs a test once on each kind of database."""
    return request.param


@pytest.fixture
def kind() -> str:
    """The kind of database a test's projects have; RLBACK_TEST_STORE=postgresql tries everything on the other one."""
    return os.environ.get("RLBACK_TEST_STORE", "sqlite")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """A PostgreSQL server, started when the first test asks for one."""
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.server() as running:
        yield running


@pytest.fixture
def new_database(kind: str, request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Gives the project at a path a database of the test's kind: a new one, with what its SQLite file holds."""

    def give(root: Path) -> None:
        if kind == "sqlite":
            return
        server: postgres.Server = request.getfixturevalue("postgresql")
        url = server.make() if kind == OWN else server.schema()
        if (file := root / ".rlback" / "ledger.db").exists():
            heads = Heads(root / "mlruns" / "ledger-heads.jsonl", root / ".rlback" / "signing.key")
            source, target = Store.sqlite(file, heads), Store(url, heads)
            copy_ledger(source, target)
            source.close()
            target.close()
            file.unlink()  # whoever still looks there finds nothing
        root.mkdir(exist_ok=True)
        (root / "database.yaml").write_text(f"url: {url}\n")

    return give


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None]) -> Iterator[Project]:
    """An empty project in a directory of its own."""
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "p" / ".prefect"))
    new_database(tmp_path / "p")
    made = make_project(tmp_path / "p")
    yield made
    made.store.close()


@pytest.fixture
def copied(tmp_path: Path, new_database: Callable[[Path], None]) -> Iterator[Callable[[Path], Project]]:
    """Makes a project that is a copy of a template."""
    made: list[Project] = []

    def copy(template: Path) -> Project:
        root = tmp_path / "copy"
        shutil.copytree(template, root)
        new_database(root)
        made.append(make_project(root))
        return made[-1]

    yield copy
    for one in made:
        one.store.close()


@pytest.fixture(scope="session")
def finished_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the tiny campaign run to its end; copied by those who change it."""
    from rlback.campaign import machine
    from rlback.config import check_config
    from rlback.records import Actor

    root = tmp_path_factory.mktemp("finished") / "p"
    made = make_project(root)
    name = machine.start(made, check_config(TINY, "tiny"), Actor("ada", "human"))
    machine.advance(made, name)
    made.store.close()
    return root


@pytest.fixture
def finished(finished_template: Path, copied: Callable[[Path], Project]) -> Project:
    """A copy of the finished tiny campaign's project."""
    return copied(finished_template)


@pytest.fixture(scope="session")
def human_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose campaign waits for a person at the gate of round 1 (labels were simulated)."""
    from rlback.campaign import machine
    from rlback.config import check_config
    from rlback.records import Actor

    root = tmp_path_factory.mktemp("human") / "p"
    made = make_project(root)
    config = check_config(changed(name="person", gate={"approver": "human"}), "tiny")
    machine.advance(made, machine.start(made, config, Actor("ada", "human")))
    made.store.close()
    return root


@pytest.fixture
def at_gate(human_template: Path, copied: Callable[[Path], Project]) -> Project:
    """A copy of the project that waits at a gate."""
    return copied(human_template)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for a module's tests, which are skipped where there is none.

    Not for a session: while it is there, its driver's event loop runs in this thread, and no other can.
    """
    from tests.web.screens import CHROMIUM, chromium

    pytest.importorskip("playwright", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed (apt-get install chromium)")
    with chromium() as started:
        yield started


@dataclass
class Disk:
    """A small file system of its own, to be filled and emptied."""

    place: Path

    def fill(self, room: int) -> None:
        """Leaves about `room` KiB."""
        free = shutil.disk_usage(self.place).free
        with (self.place / "filler").open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, max(1, free - (room << 10)))

    def empty(self) -> None:
        (self.place / "filler").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs of 64 MiB, where the system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "rlback-test", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        # Lazily: MLflow keeps its database open for as long as the process lives.
        subprocess.run(["umount", "-l", str(place)], check=True)


def half_written(root: Path) -> list[Path]:
    """What is hidden under a name for files that are being written."""
    return list(root.rglob(".*.part"))
