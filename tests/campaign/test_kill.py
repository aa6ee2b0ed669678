"""kill -9 at arbitrary moments, then `advance`: nothing lost, nothing doubled, the same digests in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.campaign.plan import Step
from rlback.config import check_config
from rlback.data import snapshot
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions
from rlback.registry.verification import verify
from tests.conftest import TINY


def test_a_campaign_killed_again_and_again_ends_like_an_undisturbed_one(project: Project, finished: Project):
    """Killed at six moments spread over its run, the tiny campaign ends with the undisturbed one's digests."""
    name = machine.start(project, check_config(TINY, "tiny"), Actor("ada", "human"))
    command = [sys.executable, "-m", "rlback", "--project", str(project.root), "advance", name, "--engine", "inline"]
    rng = random.Random(7)
    progress = project.state / "progress" / f"{name}.json"
    killed = 0
    for _ in range(6):
        progress.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not progress.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.2))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 3
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = list_versions(project.store), list_versions(finished.store)
    assert [(v.address, v.digest, v.status) for v in ours] == [(v.address, v.digest, v.status) for v in theirs]
    rewards = [
        {k: out["digest"] for k, out in load_recorded(p, name).items() if k[1] == "fit_reward"}
        for p in (project, finished)
    ]
    assert rewards[0] == rewards[1]
    assert machine.label_count(project, name) == machine.label_count(finished, name)
    result = verify(project, MlflowStore(project.root))
    assert result.findings == []
    assert not list((project.state / "work").rglob("*.safetensors"))


def test_what_the_data_stage_says_of_an_earlier_pointer_survives_a_kill(project: Project, monkeypatch: pytest.MonkeyPatch):
    """The stage writes `data.dvc` itself: done again after a kill, it does not take its own pointer for one that was there."""
    name = machine.start(project, check_config(TINY, "tiny"), Actor("ada", "human"))
    freeze = snapshot.freeze

    def dying(root: Path, target: Path) -> snapshot.DataVersion:
        freeze(root, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "freeze", dying)
    with pytest.raises(KeyboardInterrupt):
        machine.advance(project, name)
    assert (project.root / "data.dvc").exists()
    monkeypatch.setattr(snapshot, "freeze", freeze)
    data = machine.run_step(project, name, Step(0, "data", 1), MlflowStore(project.root))
    assert (data["had_pointer"], data["matches_pointer"]) == (False, True)


def test_a_second_process_on_the_same_campaign_is_refused(project: Project):
    """While one process holds a campaign, another is told which, and nothing happens twice."""
    name = machine.start(project, check_config(TINY, "tiny"), Actor("ada", "human"))
    command = [sys.executable, "-m", "rlback", "--project", str(project.root), "advance", name, "--engine", "inline"]
    with machine.holding(project, name):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 8
    assert f"process {os.getpid()}" in done.stderr
    assert load_recorded(project, name) == {}
