"""The arguments world: how debates are parted, what gold is worth, and what is refused before anything is computed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rlback.errors import RlbackError
from rlback.records import Completion
from rlback.studies import units
from rlback.studies.arms import library
from rlback.studies.config import Study, check_study
from rlback.studies.protocol import Batch, Segment
from rlback.studies.table import write_table
from rlback.studies.text import TextLearner
from tests.away import NAME
from tests.studies import test_resume
from tests.studies.arguments import BAD, GOOD, tree, write_pairs


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def learner(pairs: Path, shared: Path | None, **world: Any) -> TextLearner:
    found = check_study(tree(pairs, **world), "tiny.yaml").learner("plain", (3,), shared)
    assert isinstance(found, TextLearner)
    return found


def debates(prompts: list[str]) -> set[str]:
    return {prompt.split()[1] for prompt in prompts}


def test_no_debate_is_used_for_two_things(pairs: Path) -> None:
    """Policies, labels and measurements have debates of their own; gold is fitted on the last, the base on the others."""
    world = learner(pairs, None).world
    train, gate, held = (debates(world.prompts(1, 40, split)) for split in ("train", "gate", "eval"))
    assert (len(train), len(gate), len(held)) == (2, 1, 3)
    assert train | gate | held == set("012345")
    assert {p.group[-1] for p in world.gold.data.held} == held
    assert {p.group[-1] for p in world.debates.rest} == train | gate
    assert len(world.prompts(1, 7, "gate")) == 7


def test_gold_learns_what_people_said_and_says_what_it_is_worth(pairs: Path, tmp_path: Path) -> None:
    """It prefers reasons on prompts of debates it never saw; every fold leaves whole debates out; a stump counts less."""
    one = learner(pairs, tmp_path / "shared")
    assert one.facts() == {}
    prompts = one.world.prompts(1, 2, "train") * 2
    texts = [f"yes 9 {GOOD}"] * 2 + [f"yes 9 {BAD}"] * 2
    golds = one.world.golds(prompts, [Completion(text, (), True) for text in texts])
    assert min(golds[:2]) > max(golds[2:])
    gold = one.facts()["gold"]
    crossed = gold["cross_validation"]
    assert gold["parameters"] > 10 * gold["proxy_parameters"]
    assert crossed["pairs"] == gold["pairs"] == 24
    assert sorted(d for fold in crossed["folds"] for d in fold["debates"]) == gold["debates"]
    assert crossed["accuracy"] > 0.9
    assert gold["other_debates"]["pairs"] == 24
    ended, cut = one.world.golds(prompts[:1] * 2, [Completion(GOOD, (), done) for done in (True, False)])
    assert ended != cut


def test_the_file_counts_by_its_content(pairs: Path, tmp_path: Path) -> None:
    """The same pairs elsewhere are the same study; other pairs under the same name are not."""

    def digest(path: Path) -> str:
        return check_study(tree(path), "tiny.yaml").digest("plain", "vanilla")

    elsewhere = write_pairs(tmp_path / "copy.jsonl")
    before = digest(pairs)
    assert digest(elsewhere) == before
    write_pairs(elsewhere, 7)
    assert digest(elsewhere) != before


@pytest.mark.parametrize(
    ("world", "message", "remedy"),
    [
        ({"pairs": None}, "pairs is missing", "--pairs PATH"),
        ({"pairs": "/nowhere/pairs.jsonl"}, "there is no file /nowhere/pairs.jsonl", "check the path"),
        ({"text": "/nowhere/novels.txt"}, "text: there is no file /nowhere/novels.txt", "check the path"),
        ({"held_out": 5}, "has 6 debates; held_out 5 and labelled 1 and one to optimise on are 7", "lower held_out"),
        ({"heldout": 2}, "unknown key `heldout`", "held_out"),
        ({"gold": {"fold": 3}}, "unknown key `gold.fold`", "folds"),
        ({"gold": {"folds": 4}}, "gold.folds 4 are more than the 3 debates held out", "raise held_out"),
        ({"gold": {"at_least": 99.0}}, "gold.at_least asks for 99 times", "gold.shape larger"),
        ({"gold": {"model": "/nowhere"}}, "leave shape and training out", ""),
        ({"base_model": "/nowhere", "shape": None, "training": None}, "no directory /nowhere", "check the path"),
        ({"device": "cuda"}, "torch finds no GPU", "device: cpu"),
        ({"training": {"steps": 3, "batch": 4, "lr": 0.01, "precision": "auto"}}, "say fp32 or bf16", ""),
        ({"max_new_tokens": 40}, "has no room", ""),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_computed(
    pairs: Path, world: dict[str, Any], message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = tree(pairs)
    for key, value in world.items():
        section = made["world_settings"]
        section[key] = section[key] | value if isinstance(value, dict) and key == "gold" else value
    with pytest.raises(RlbackError) as raised:
        check_study(made, "tiny.yaml")
    assert message in raised.value.message
    assert remedy in (raised.value.remedy or "")


def _numbers(tree: Any) -> list[float]:
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else None
    return [float(tree)] if inner is None else [number for part in inner for number in _numbers(part)]


def _everything(one: TextLearner) -> list[Any]:
    """Numbers from every part of a learner."""
    base = one.base()
    labels = one.collect(base, base, 8, ("initial",))
    data = [Batch(labels, np.ones(1, dtype=bool), 8)]
    reward = one.combine([one.fit(data, 2, ("fit", 1))], [np.ones(1, dtype=bool)], "uncertainty_weighted", 0.5)
    segment = Segment(np.array([2]), 1, 1.0, 0.1, "base")
    ends = [
        list(path)[-1]
        for path in (
            one.optimise(base, reward, segment, ("steps", 1)), one.optimise(base, one.scorer("gold"), segment, ("steps", 1)),
            one.optimise_on_people(base, 2, segment, ("steps", 1)), one.optimise_on_pairs(base, data, segment, 0.3, ("steps", 1)),
        )
    ]  # fmt: skip
    policies = [end.policy for end in ends]
    policies += [one.interpolate(base, ends[0].policy, 0.5), one.best_of_n(base, reward, 2)]
    found = [vars(one.evaluate(policy, base, reward, pairs=True)) for policy in policies]
    cross = one.collect(policies[0], base, 4, ("cross", 1))
    return [
        labels.wins.tolist(), [end.exposure.tolist() for end in ends], [end.diverged.tolist() for end in ends],
        [{k: v.tolist() for k, v in row.items() if v is not None} for row in found], one.predicted(cross, reward).tolist(),
        one.disagreement(policies[0], reward).tolist(),
    ]  # fmt: skip


def test_the_other_device_refuses_what_a_gpu_refuses() -> None:
    there = torch.ones(3, device=NAME)
    assert (there + 1).cpu().tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="to numpy"):
        there.numpy()


@pytest.mark.timeout(900)  # every operation goes through Python
def test_on_another_device_everything_is_there_and_nothing_is_mixed(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device of tests/away.py refuses what a GPU refuses, and gives the numbers of the CPU, to rounding."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # it knows no tensors with a class of their own
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # or moving would untie embedding and output matrix
    at_home = learner(pairs, None)
    world = replace(at_home.world, device=torch.device(NAME, 0), shared=tmp_path / "shared")
    away = replace(at_home, world=world)
    try:
        found = _everything(away)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
    assert {p.device.type for p in away.bases[0].policy.model.parameters()} == {NAME}
    assert world.gold.model.device.type == NAME
    for one, other in zip(_numbers(found), _numbers(_everything(at_home)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_rehearsal_writes_nothing_and_names_what_is_to_be_made(pairs: Path, tmp_path: Path) -> None:
    stand_in, todo = learner(pairs, tmp_path / "shared").rehearsal()
    assert [b.what.split(":")[0] for b in todo] == ["base policy 0", "gold model's trunk", "gold model and its 3 folds"]
    assert all(b.seconds > 0 for b in todo)
    stand_in.evaluate(stand_in.base(), stand_in.base(), None, pairs=False)
    assert not (tmp_path / "shared").exists()


@pytest.mark.timeout(900)
def test_a_study_killed_in_its_beginnings_goes_on_and_finds_the_same(pairs: Path, tmp_path: Path) -> None:
    """kill -9 when gold's trunk is there and gold is not; then the same command; and one that was left alone."""
    config, killed, whole = tmp_path / "tiny.yaml", tmp_path / "killed", tmp_path / "whole"
    config.write_text(yaml.safe_dump(tree(None)))

    def command(out: Path) -> list[str]:
        return [*test_resume.command(config, out), "--pairs", str(pairs)]

    process = subprocess.Popen(
        command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=test_resume.environment()
    )
    until = time.monotonic() + 600
    while not list(killed.glob("shared/gold-trunk-*.json")):
        assert process.poll() is None, "the study ended before gold's trunk"
        assert time.monotonic() < until, "no trunk was made"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    trunk = next(killed.glob("shared/gold-trunk-*.json"))
    made = os.stat(trunk).st_mtime_ns
    done = subprocess.run(command(killed), capture_output=True, text=True, env=test_resume.environment(), timeout=900)
    assert done.returncode == 0, done.stderr
    assert os.stat(trunk).st_mtime_ns == made
    study = check_study(tree(pairs), str(config))
    everything = units.units_of(study, whole)
    for unit in everything:
        units.run_unit(study, unit, whole)
    write_table(units.collected(everything, whole), whole / "results.parquet")
    assert test_resume.rows(killed) == test_resume.rows(whole)
    facts = json.loads((killed / "study.json").read_text())["facts"]["plain"]
    assert facts == study.learner("plain", study.seeds, whole / "shared").facts()
    assert facts["gold"]["cross_validation"]["of"] == len(facts["gold"]["cross_validation"]["folds"])


def test_arms_that_need_averaged_weights_are_refused(pairs: Path) -> None:
    with pytest.raises(RlbackError, match="weight_average"):
        check_study({**tree(pairs), "arms": ["take-last-warm"]}, "tiny.yaml")
    assert isinstance(check_study(tree(pairs), "tiny.yaml"), Study)
    assert "take-last-warm" in library()
