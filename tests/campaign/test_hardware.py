"""The device, and `precision: auto`: looked at when a campaign starts, and what was found is recorded with it."""

from __future__ import annotations

import json

import pytest
import torch

from rlback.__main__ import main
from rlback.campaign import machine
from rlback.config import check_config
from rlback.errors import ConfigError
from rlback.project import Project
from rlback.records import Actor
from rlback.training import precisions
from rlback.training.updates import precision
from tests.conftest import ROOT, changed

AUTO = {
    "base": {"training": {"steps": 3, "batch": 4, "lr": 0.01, "precision": "auto"}},
    "reward_model": {"training": {"epochs": 1, "batch": 4, "lr": 0.001, "precision": "auto"}},
}


@pytest.mark.parametrize(
    ("seconds", "chosen", "gain"),
    [
        ({"fp32": 1.0, "bf16": 0.5}, "bf16", 2.0),
        ({"fp32": 1.0, "bf16": 0.9}, "fp32", 1 / 0.9),  # faster, but not worth its rounding
        ({"fp32": 1.0, "bf16": 60.0}, "fp32", 1 / 60),
    ],
)
def test_bf16_is_taken_where_it_pays(monkeypatch, seconds, chosen, gain):
    timed = []
    monkeypatch.setattr(precisions, "_seconds", lambda up, down, rows, kind, device: timed.append(rows) or seconds[kind])
    assert precisions.faster_precision(8, 16, torch.device("cpu")) == (chosen, pytest.approx(gain))
    # Emulated bf16 is found out with few rows.
    assert (precisions.ROWS in timed) == (seconds["bf16"] < 2)


def test_what_is_timed_is_a_forward_and_a_backward_pass():
    """The real measurement runs, and comes to one of the two."""
    chosen, gain = precisions.faster_precision(16, 32, torch.device("cpu"))
    assert chosen == ("bf16" if gain >= precisions.WORTH else "fp32")


@pytest.mark.parametrize("found", ["fp32", "bf16"])
def test_the_choice_is_recorded_when_the_campaign_starts(project: Project, monkeypatch, found):
    """Every `auto` becomes what was measured, at the base's own width; what was given otherwise stays."""
    asked = []
    monkeypatch.setattr(precisions, "faster_precision", lambda *shape: asked.append(shape) or (found, 1.0))
    name = machine.start(project, check_config(changed(**AUTO), "here"), Actor("ada", "human"))
    recorded = json.loads(machine.load_campaign(project, name).config)
    assert recorded["base"]["training"]["precision"] == recorded["reward_model"]["training"]["precision"] == found
    assert recorded["optimise"]["precision"] == "fp32"
    assert asked == [(16, 32, torch.device("cpu"))]


def test_without_auto_nothing_is_measured(project: Project, monkeypatch):
    monkeypatch.setattr(precisions, "faster_precision", lambda *shape: pytest.fail("measured"))
    machine.start(project, check_config(changed(), "here"), Actor("ada", "human"))


def test_a_loop_refuses_a_precision_that_is_not_settled():
    with pytest.raises(ConfigError, match="auto is not settled"), precision("auto", torch.device("cpu")):
        pass


def test_a_gpu_that_is_not_there_is_said_before_anything_is_recorded(project: Project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        machine.start(project, check_config(changed(device="cuda"), "here"), Actor("ada", "human"))
    assert project.store.event_count() == 0


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_dry_run_says_what_the_run_would_say_before_the_files_are_read(project: Project, monkeypatch, capsys, dry):
    """The pairs are damaged too: that is not what stops it."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pairs = project.root / "pairs.jsonl"
    pairs.write_text("no JSON\n")
    assert main(["run", str(ROOT / "configs" / "arguments-gpu.yaml"), "--pairs", str(pairs), *dry]) == 2
    error = capsys.readouterr().err
    assert "device: cuda, but torch finds no GPU" in error
    assert "set device: cpu" in error
    assert project.store.event_count() == 0
