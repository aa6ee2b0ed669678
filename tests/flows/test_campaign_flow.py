"""The campaign as a real Prefect flow, with a server of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

from rlback.campaign import machine
from rlback.config import check_config
from rlback.project import Project
from rlback.records import Actor
from tests.conftest import ROOT, changed


def test_a_flow_run_ends_waiting_for_an_approver_and_leaves_the_evidence(project: Project):
    """One task a stage, the named state AwaitingApproval, a markdown artifact, all under the project directory."""
    config = check_config(changed(name="person", rounds=1, gate={"approver": "human"}), "tiny")
    name = machine.start(project, config, Actor("ada", "human"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "rlback", "--project", str(project.root), "advance", name],
        capture_output=True, text=True, env=environment, cwd=project.root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rlback gate show person.r1" in done.stdout
    database = sqlite3.connect(project.root / ".prefect" / "prefect.db")
    states = database.execute("SELECT state_name, state_type FROM flow_run").fetchall()
    assert states == [("AwaitingApproval", "COMPLETED")]
    artifacts = database.execute("SELECT type, data FROM artifact").fetchall()
    assert [kind for kind, _ in artifacts] == ["markdown"]
    assert "human win rate over start" in artifacts[0][1]


def test_what_a_stage_refuses_is_told_once_and_without_a_traceback(project: Project):
    """A data stage that finds data.dvc damaged: the message and its remedy, and nothing of Prefect's own."""
    name = machine.start(project, check_config(changed(name="person"), "tiny"), Actor("ada", "human"))
    (project.root / "data.dvc").write_text("outs: []")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "rlback", "--project", str(project.root), "advance", name],
        capture_output=True, text=True, env=environment, cwd=project.root,
    )  # fmt: skip
    assert done.returncode == 3
    said = [line for line in done.stderr.splitlines() if not line.startswith("person:")]
    assert "data.dvc is not a pointer" in said[0]
    assert len(said) == 2, done.stderr


def test_flow_files_hold_wiring_only():
    """No arithmetic on figures and no training library in flows/, and every flow file ends in _flow.py."""
    files = sorted((ROOT / "flows").glob("*.py"))
    assert files
    for file in files:
        assert file.name.endswith("_flow.py")
        text = file.read_text()
        assert "import torch" not in text
        assert len(text.splitlines()) <= 120
