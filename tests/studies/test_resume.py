"""A study at the command line: ended by kill -9 it goes on with what is missing, and comes to the same rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from tests.conftest import ROOT
from tests.studies.test_machine import TREE

ARMS = ["vanilla", "take-last", "from-base", "rollback-once", "gold"]


def command(config: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "rlback", "study", str(config), "--engine", "inline", "--workers", "1", "--out", str(out), "--json"
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "components")}


def study(config: Path, out: Path) -> dict[str, Any]:
    done = subprocess.run(command(config, out), capture_output=True, text=True, env=environment(), timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def show(out: Path, *chosen: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "rlback", "study", "show", "--out", str(out), "--json", "--draws", "50", *chosen]
    return subprocess.run(asked, capture_output=True, text=True, env=environment(), timeout=120)


def rows(out: Path) -> list[dict[str, Any]]:
    """What was found, without the seconds it took."""
    found = pq.read_table(out / "results.parquet").drop_columns(["seconds"]).to_pylist()
    return sorted(found, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def test_a_killed_study_goes_on_and_finds_the_same(tmp_path: Path):
    config = tmp_path / "tiny.yaml"
    tree = {**TREE, "name": "tiny", "chunk": 1, "arms": ARMS, "analysis": {"draws": 50}}
    config.write_text(yaml.safe_dump(tree))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(config, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    until = time.monotonic() + 200
    while not list(killed.glob("parts/*.parquet")):
        assert process.poll() is None, "the study ended before its first part"
        assert time.monotonic() < until, "no part was written"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had = len(list(killed.glob("parts/*.parquet")))
    again, undisturbed = study(config, killed), study(config, whole)
    assert undisturbed["computed"] == undisturbed["units"] == 3 * len(ARMS)
    # A worker may have finished one more part between the count and its end.
    assert again["computed"] in (again["units"] - had, again["units"] - had - 1)
    assert rows(killed) == rows(whole)
    shown = show(whole)
    assert shown.returncode == 0, shown.stderr
    assert all(arm in shown.stdout for arm in ARMS)
    few, lost = show(whole, "--arm", "gold", "--table", "finals"), show(whole, "--table", "finls")
    assert [row["arm"] for row in json.loads(few.stdout)["finals"]["rows"]] == ["gold"]
    assert lost.returncode == 2
    assert "finals" in lost.stderr
    assert Path(undisturbed["report"]).is_file()
