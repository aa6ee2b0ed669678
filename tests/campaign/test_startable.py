"""Settings that contradict each other are refused by key and remedy before a campaign is on record, in a dry run too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlback.campaign.machine import start as record
from rlback.campaign.stages_train import FEWEST_PREFERENCES
from rlback.campaign.startable import require_startable
from rlback.config import check_config
from rlback.errors import ConfigError
from rlback.project import Project
from rlback.records import Actor
from rlback.worlds import WORLDS, load_world
from tests.campaign.walking import SMALL, command, entered, lines, plain
from tests.conftest import ROOT, TINY, changed

DPO = {"method": "dpo", "lr": 0.001, "beta": 0.1, "max_new_tokens": 24}
PPO = {"method": "ppo", "steps": 1, "lr": 0.1, "beta": 0, "max_new_tokens": 24}
ENSEMBLE = ("reward_model.shape={pooling: sum, members: 3}", "reward_model.training.bootstrap=false")


def refused(tmp_path: Path, settings: tuple[str, ...], files: dict[str, str] | None = None) -> str:
    """What is said of the tiny campaign with these settings, with and without a dry run alike; nothing is on record."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(TINY))
    with entered(tmp_path / "p") as project:
        for name, text in (files or {}).items():
            (project.root / name).write_text(text)
        words = ("run", str(tmp_path / "c.yaml"), "--engine", "inline", *(w for s in settings for w in ("--set", s)))
        said = command(*words, "--dry-run", status=2)
        assert command(*words, status=2) == said
        assert project.store.event_count() == 0
    assert len(said.splitlines()) == 2  # the error and its remedy
    return said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("scores=annotators", "optimise.samples_per_prompt=3"), "optimise.samples_per_prompt is 3"),
        (("scores=annotators", f"optimise={PPO}"), "optimise.samples_per_prompt is 1"),
        (ENSEMBLE, "reward_model.shape.members: 3 members"),
        (("base.shape.max_positions=29",), "base.shape.max_positions 29 has no room for a prompt of 6 tokens and 24 tokens"),
        (("base.shape.max_positions=54",), "base.shape.max_positions 54 has no room for a prompt of 6 tokens and the 48 words"),
        (("base.shape.max_positions=54", "base.training.steps=0", "optimise.max_new_tokens=49"), "and 49 tokens"),
        ((f"labels.initial={FEWEST_PREFERENCES - 1}",), f"labels.initial is {FEWEST_PREFERENCES - 1}; at least"),
        (("labels.initial=1", "source.world=segments"), "labels.initial is 1; at least"),
        ((f"optimise={DPO}", "labels.initial=1"), "labels.initial is 1; at least"),
    ],
)  # fmt: skip
def test_a_contradiction_is_named_at_once(tmp_path: Path, settings: tuple[str, ...], named: str) -> None:
    """Not after the base policy is trained, or the labels are given."""
    assert named in refused(tmp_path, settings)


@pytest.mark.parametrize(
    ("function", "files", "named"),
    [
        ("absent.py:worth", {}, "there is no file"),
        ("../grade.py:worth", {}, "lies outside the project"),
        ("grade.py:worth", {"grade.py": "def other(prompt, completion): return 1\n"}, "has no function worth"),
        ("grade.py:worth", {"grade.py": "def worth(prompt, completion) return 1\n"}, "cannot be read as Python"),
        ("grade.py:worth", {"grade.py": "\0"}, "cannot be read as Python"),
    ],
)  # fmt: skip
def test_an_outcome_that_is_not_there_is_named_at_once(tmp_path: Path, function: str, files: dict[str, str], named: str) -> None:
    said = refused(tmp_path, (f"scores={{function: '{function}'}}", "labels.initial=0"), files)
    assert named in said
    assert "scores.function" in said


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit('this was run')\ndef worth(prompt, completion): return 1\n", "from os.path import join as worth\n",
        "from math import *\n", "worth = lambda prompt, completion: 1\n", "import worth\n", "globals()['worth'] = print\n",
        "if True:\n    def worth(prompt, completion): return 1\n",
    ],
)  # fmt: skip
def test_an_outcome_that_may_be_there_is_read_and_not_run(project: Project, text: str) -> None:
    """However the name comes to be; a dry run and the console run nobody's file."""
    (project.root / "grade.py").write_text(text)
    require_startable(project, check_config(changed(scores={"function": "grade.py:worth"}, labels={"initial": 0}), "here"))


@pytest.mark.parametrize(
    ("setting", "given", "named"),
    [
        ("base.training.window=193", True, "base.training.window 193 is more than base.shape.max_positions 192"),
        ("base.text_share=1", False, "base.text_share is 1, but no text is given"),
    ],
)
def test_what_files_of_preferences_ask_for_is_named_at_once(tmp_path: Path, setting: str, given: bool, named: str) -> None:
    """A window that no model here can read, and text alone where none is given; as much as there is goes."""
    (tmp_path / "pairs.jsonl").write_bytes(lines(plain()))
    (tmp_path / "text").write_text("word " * 999)
    run = ("run", str(ROOT / "configs" / "table.yaml"), "--pairs", str(tmp_path / "pairs.jsonl"), "--engine", "inline")
    small = tuple(word for part in SMALL for word in ("--set", part))
    text = ("--text", str(tmp_path / "text"))
    with entered(tmp_path / "p") as project:
        words = (*run, *small, "--set", setting, *(text if given else ()))
        said = command(*words, "--dry-run", status=2)
        assert command(*words, status=2) == said
        assert named in said
        assert project.store.event_count() == 0
        fits = "base.training.window=192" if given else "base.text_share=0.99"
        command(*run, *small, "--set", fits, "--dry-run")
        command(*run, *small, "--set", "base.text_share=1", *text, "--dry-run")


@pytest.mark.parametrize(
    "sections",
    [
        {"scores": "annotators", "labels": {"initial": 0}},
        {"reward_model": {"shape": {"pooling": "sum", "members": 3}}},
        {"reward_model": {"shape": {"pooling": "last", "members": 3}, "training": {"lr": 0.1, "bootstrap": False}}},
        {"base": {"shape": TINY["base"]["shape"] | {"max_positions": 55}}},
        {"labels": {"initial": FEWEST_PREFERENCES}},
        {"labels": {"initial": 1, "annotators": "human"}},  # there may be an import
    ],
)
def test_what_can_be_carried_out_is_let_through(project: Project, sections: dict[str, Any]) -> None:
    require_startable(project, check_config(changed(**sections), "here"))


def test_the_same_holds_whoever_starts_it(project: Project) -> None:
    """The console and other callers record with the same function."""
    with pytest.raises(ConfigError, match=r"labels\.initial is 1"):
        record(project, check_config(changed(labels={"initial": 1}), "here"), Actor("ada", "human"))
    assert project.store.event_count() == 0


@pytest.mark.parametrize("name", WORLDS)
def test_no_prompt_of_a_world_is_longer_than_it_says(name: str) -> None:
    """Nor shorter, with every split looked at, and each token of it is a word."""
    world = load_world(name)
    assert {len(prompt.split()) for split in ("train", "gate", "eval") for prompt in world.prompts(0, 500, split)} == {
        world.prompt_limit
    }
