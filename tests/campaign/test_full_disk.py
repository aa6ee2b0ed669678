"""A full disk: one message that names it, nothing recorded is lost, and the same digests once there is room again."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.campaign.plan import Step
from rlback.config import check_config
from rlback.data import snapshot
from rlback.disks import FullDisk, full_disk
from rlback.errors import RlbackError, StageError
from rlback.project import Project, make_project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions
from rlback.registry.verification import verify
from tests.campaign.walking import advance, command, entered
from tests.conftest import TINY, Disk, half_written

Usage = namedtuple("Usage", "total used free")


def started(root: Path) -> tuple[Project, str]:
    """A project with the tiny campaign recorded and nothing of it run."""
    project = make_project(root)
    MlflowStore(root).prepare()
    return project, machine.start(project, check_config(TINY, "tiny"), Actor("ada", "human"))


def digests(project: Project) -> dict[tuple[int, str, int], Any]:
    """What was made, by stage: weights, data versions, labels, evidence."""
    keys = ("digest", "sha256", "evidence_digest")
    return {
        step: {key: output[key] for key in keys if key in output}
        for step, output in load_recorded(project, "tiny").items()
    }


def test_a_disk_that_fills_up_in_every_stage_costs_that_stage_and_nothing_else(
    disk: Disk, finished: Project, monkeypatch: pytest.MonkeyPatch
):
    """Nearly full before each stage of two rounds, with three amounts of room: each stage ends as if undisturbed."""
    monkeypatch.setattr(Project, "require_space", lambda *_: None)
    project, name = started(disk.place / "p")
    mirror = MlflowStore(project.root)
    refused: dict[Step, StageError] = {}
    with machine.holding(project, name):
        machine.prepare(project, name, mirror)
        while isinstance(due := machine.what_next(project, name), Step):
            before = load_recorded(project, name)
            for room in (0, 24, 96):
                disk.fill(room)
                try:
                    machine.run_step(project, name, due, mirror)
                except StageError as error:
                    refused[due] = error
                assert half_written(project.root) == []
                disk.empty()
            assert before.items() <= load_recorded(project, name).items()
            assert verify(project, mirror).findings == []
            machine.run_step(project, name, due, mirror)
            machine.prepare(project, name, mirror)
    assert {"data", "base", "fit_reward", "optimise"} <= {step.stage for step in refused}
    for step, error in refused.items():
        assert f"the disk of {project.root} is full" in error.message
        assert "to go on, at least 20" in error.message  # MiB; a stage that trains needs a little more than 200
        if step.stage in ("base", "fit_reward", "optimise"):
            assert re.search(r"\(/\S+ could not be written, which takes [\d,]+ bytes\)", error.message)
        assert error.remedy == "free some space, then run `rlback advance`; nothing recorded is lost"
    assert digests(project) == digests(finished)
    assert verify(project, mirror).findings == []
    assert not list((project.state / "work").rglob("*.safetensors"))


def fault(error: Callable[[], Exception]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error()

    return fail


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "/p/some.file")


#: (stage at whose start it begins, what fails, how its library words it)
FAULTS = [
    (Step(0, "data"), "rlback.data.manifest.os.fsync", no_space),
    (Step(0, "base"), "rlback.models.checkpoint._write_file", no_space),
    (Step(0, "sample"), "rlback.ledger.store.event_hash", lambda: sqlite3.OperationalError("database or disk is full")),
    (Step(0, "snapshot"), "rlback.data.dvc_access.is_whole", no_space),
    (Step(0, "fit_reward"), "rlback.registry.mlflow_rules._copy_files", no_space),
    (
        Step(1, "optimise"),
        "rlback.models.checkpoint._weights",
        lambda: SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ),
    (Step(1, "evaluate"), "rlback.ledger.heads.os.write", lambda: OSError(errno.EDQUOT, "Disk quota exceeded")),
]


def test_however_a_library_words_it_the_message_is_one_and_the_campaign_goes_on(tmp_path: Path, finished: Project):
    """Seven writes fail in turn with what a full disk or quota makes of them; the digests are the undisturbed ones."""
    with entered(tmp_path / "p") as project:
        started(project.root)
        for due, target, error in FAULTS:
            with pytest.MonkeyPatch.context() as patch:
                begun = machine.run_step

                def failing(project_: Project, name: str, step: Step, mirror: MlflowStore, *, begun=begun, due=due,
                            target=target, error=error, patch=patch) -> Any:  # fmt: skip
                    if step == due:
                        patch.setattr(target, fault(error))
                    return begun(project_, name, step, mirror)

                patch.setattr(machine, "run_step", failing)
                said = advance(status=8)
            lines = [line for line in said.splitlines() if not line.startswith("tiny:")]
            assert lines[0].startswith(f"rlback: the disk of {project.root} is full"), due
            assert lines[1:] == ["        free some space, then run `rlback advance`; nothing recorded is lost"]
        assert "is finished" in advance()
        assert digests(project) == digests(finished)
        assert [v.digest for v in list_versions(project.store)] == [v.digest for v in list_versions(finished.store)]
        assert verify(project, MlflowStore(project.root)).findings == []
        assert not list((project.state / "work").rglob("*.safetensors"))


def test_source_data_that_are_there_survive_a_failed_rewrite(finished: Project, monkeypatch: pytest.MonkeyPatch):
    """A second campaign makes data/ again and the disk fills up in the middle: what the first one used is whole."""
    name = machine.start(finished, check_config(TINY, "tiny"), Actor("ada", "human"))
    with monkeypatch.context() as patch:
        patch.setattr("rlback.worlds.visits.split_size", fault(no_space))  # after the corpus, before the prompts
        with pytest.raises(StageError, match="is full"):
            machine.advance(finished, name)
    version = snapshot.pointer(finished.root, finished.data)
    assert version is not None
    snapshot.verify(finished.root, finished.data, version)
    machine.run_step(finished, name, Step(0, "data"), MlflowStore(finished.root))
    assert snapshot.pointer(finished.root, finished.data) == version


def test_no_stage_is_started_on_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With 199 MiB free the command names the disk, what is free and what is needed, and records nothing."""
    with entered(tmp_path / "p") as project:
        started(project.root)
        events = project.store.event_count()
        monkeypatch.setattr("rlback.project.shutil.disk_usage", lambda _: Usage(1 << 40, 0, 199 << 20))
        said = advance(status=8)
        assert f"only 199 MiB are free on the disk of {project.root}; a stage needs at least 200 MiB" in said
        assert "rlback advance" in said
        assert load_recorded(project, "tiny") == {}
        assert project.store.event_count() == events


def test_a_stage_that_trains_needs_room_for_its_states(at_gate: Project, monkeypatch: pytest.MonkeyPatch):
    """Optimising a base of n bytes is refused with less than 200 MiB and 7 n free; deciding needs 200 MiB alone."""
    weights = at_gate.absolute(load_recorded(at_gate, "person")[(0, "base", 1)]["location"]) / "model.safetensors"
    need = (200 << 20) + 7 * weights.stat().st_size
    recorded = load_recorded(at_gate, "person")
    assert machine._least_space(at_gate, recorded, Step(2, "optimise")) == need
    assert machine._least_space(at_gate, recorded, Step(1, "decide")) == 200 << 20
    monkeypatch.setattr("rlback.project.shutil.disk_usage", lambda _: Usage(1 << 40, 0, need - 1))
    with pytest.raises(StageError, match="are free on the disk"):
        at_gate.require_space(need)
    at_gate.require_space(need - 1)


def test_what_is_no_full_disk_is_not_called_one(tmp_path: Path):
    """A text that speaks of a full disk in our own error, an I/O error with room left, and a refusal stay themselves."""
    assert full_disk(RlbackError("chosen is 'No space left on device'"), tmp_path) is None
    assert full_disk(sqlite3.OperationalError("disk I/O error"), tmp_path) is None
    assert full_disk(PermissionError(errno.EACCES, "no", "/f"), tmp_path) is None
    assert full_disk(OSError(errno.ENOSPC, "full", "/f"), tmp_path) == FullDisk("/f")
    assert full_disk(sqlite3.OperationalError("database or disk is full"), tmp_path) == FullDisk("")
    wrapped = RlbackError("MLflow could not set an alias")
    wrapped.__cause__ = OSError(errno.ENOSPC, "full", "/from", None, "/to")
    assert full_disk(wrapped, tmp_path) == FullDisk("/to")


def test_a_report_on_a_full_disk_is_the_old_one_or_none(disk: Disk, finished_template: Path):
    """The command names the page and its size, leaves nothing half-written, and works once there is room."""
    shutil.copytree(finished_template, disk.place / "p")
    page = disk.place / "p" / "reports" / "tiny" / "index.html"
    with entered(disk.place / "p"):
        disk.fill(4)
        said = command("report", "tiny", status=8)
        assert re.search(rf"the disk is full \({page.parent}/\S+ could not be written, which takes [\d,]+ bytes\)", said)
        assert "free some space, then give the command again" in said
        assert not page.exists()
        assert half_written(disk.place) == []
        disk.empty()
        command("report", "tiny")
        whole = page.read_text()
        assert whole.rstrip().endswith("</html>")
        disk.fill(4)
        command("report", "tiny", status=8)
        assert page.read_text() == whole


def test_what_a_killed_process_left_half_written_is_gone_at_the_next_start(finished: Project):
    """In the work under way and where MLflow's files lie; nothing else is touched."""
    before = sorted(path for path in finished.root.rglob("*") if path.is_file() and path.suffix != ".db")
    models = finished.root / "mlruns" / "artifacts" / "tiny" / "models"
    for place in (finished.state / "work" / "tiny" / "001-optimise-1", models / "m-1"):
        (place / ".artifacts.part").mkdir(parents=True)
        (place / ".artifacts.part" / "model.safetensors").write_bytes(b"half")
        (place / ".candidate.0f.part").write_bytes(b"half")
    assert len(half_written(finished.root)) == 4
    machine.prepare(finished, "tiny")
    assert half_written(finished.root) == []
    assert set(before) <= set(finished.root.rglob("*"))
