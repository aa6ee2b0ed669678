"""Every way to optimise a policy is the same campaign with other settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.config import check_config
from rlback.errors import ConfigError
from rlback.ledger.tables import checkpoints
from rlback.models.checkpoint import load_policy, load_reward_model
from rlback.models.manifest import verify_checkpoint
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions
from rlback.registry.verification import verify
from tests.conftest import changed

ADA = Actor("ada", "human")


def run(project: Project, **sections: object) -> dict[tuple[int, str, int], dict[str, object]]:
    """A tiny campaign to its end; what it recorded."""
    name = machine.start(project, check_config(changed(**sections), "tiny"), ADA)
    machine.advance(project, name)
    return load_recorded(project, name)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rloo", "objective": "token", "epochs": 2},
        {"method": "grpo", "variant": "dr_grpo", "minibatches": 2},
        {"method": "ppo", "samples_per_prompt": 1, "epochs": 2},
        {"method": "online_dpo", "beta": 0.1},
    ],
    ids=lambda s: s["method"],
)
def test_a_campaign_runs_with_every_method(project: Project, settings: dict[str, object]) -> None:
    """Two rounds to the end, with a candidate each, and all that is recorded holds."""
    recorded = run(project, optimise=settings)
    assert [recorded[(r, "optimise", 1)]["steps"] for r in (1, 2)] == [4, 4]
    assert recorded[(1, "settle", 1)]["decision"] in ("approved", "declined")
    assert verify(project, MlflowStore(project.root)).holds


def test_dpo_learns_from_pairs_alone(project: Project) -> None:
    """No reward model is fitted; every round takes all labels so far; evidence has no reward model in it."""
    dpo = {"method": "dpo", "lr": 0.001, "beta": 0.1, "batch": 8, "max_new_tokens": 24, "checkpoint_every": 1}
    tree = changed()
    tree["optimise"] = dpo
    name = machine.start(project, check_config(tree, "tiny"), ADA)
    machine.advance(project, name)
    recorded = load_recorded(project, name)
    assert [stage for (_, stage, _) in recorded if stage == "fit_reward"] == []
    pairs = [recorded[(r, "optimise", 1)]["pairs"] for r in (1, 2)]
    assert 0 < pairs[0] < pairs[1]
    assert recorded[(1, "evaluate", 1)]["statistics"]["agreement_cross"] is None
    assert recorded[(1, "evaluate", 1)]["measured"]["proxy"] is None
    assert len(recorded[(1, "optimise", 1)]["step_checkpoints"]) == recorded[(1, "optimise", 1)]["steps"] - 1
    assert verify(project, MlflowStore(project.root)).holds


def test_direct_rl_needs_no_reward_model(project: Project) -> None:
    """Annotators give every step's verdicts; no labels beforehand, no reward model, and a lineage that says so."""
    recorded = run(project, scores="annotators", labels={"initial": 0})
    assert {stage for (_, stage, _) in recorded} >= {"optimise", "evaluate", "settle"}
    assert [stage for (_, stage, _) in recorded if stage == "fit_reward"] == []
    assert -1 <= recorded[(1, "optimise", 1)]["proxy_last"] <= 1
    assert verify(project, MlflowStore(project.root)).holds


@pytest.mark.parametrize("kind", ["function", "command"])
def test_an_outcome_scores_the_completions(project: Project, kind: str) -> None:
    """A function in a file of the project, or a command: every completion is worth one half."""
    (project.root / "grade.py").write_text("def worth(prompt: str, completion: str) -> float:\n    return 0.5\n")
    code = "import sys\nfor line in sys.stdin: print(0.5)"
    scores = {"function": "grade.py:worth"} if kind == "function" else {"command": [sys.executable, "-c", code]}
    recorded = run(project, scores=scores, labels={"initial": 0}, rounds=1)
    assert recorded[(1, "optimise", 1)]["proxy_last"] == 0.5
    (candidate,) = [v for v in list_versions(project.store, "policy") if v.status != "base"]
    assert (kind == "command") == (candidate.lineage["scores"]["sha256"] is None)
    assert verify(project, MlflowStore(project.root)).holds


def test_a_missing_outcome_is_named(project: Project) -> None:
    """A file that is not there, a name that is not in it, and both kinds at once."""
    with pytest.raises(ConfigError, match="outside the project"):
        run(project, scores={"function": "../grade.py:worth"}, labels={"initial": 0})
    with pytest.raises(ConfigError, match=r"no file .*absent\.py"):
        run(project, scores={"function": "absent.py:worth"}, labels={"initial": 0})
    (project.root / "grade.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="no function worth"):
        run(project, scores={"function": "grade.py:worth"}, labels={"initial": 0})
    with pytest.raises(ConfigError, match="either a function or a command"):
        check_config(changed(scores={"function": "grade.py:worth", "command": ["true"]}), "tiny")


def test_an_outcome_command_runs_in_the_project(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the caller is, a file of the project's is found as it is for a function."""
    (project.root / "grade.py").write_text("import sys\nfor line in sys.stdin: print(0.5)\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = run(project, scores={"command": [sys.executable, "grade.py"]}, labels={"initial": 0}, rounds=1)
    assert recorded[(1, "optimise", 1)]["proxy_last"] == 0.5


@pytest.mark.parametrize("seconds", [7 * 24 * 3600 + 1, 2.5e6, 1e300])
def test_an_outcome_command_has_a_week_at_most(seconds: float) -> None:
    """More is more than the clock holds; the key is named."""
    with pytest.raises(ConfigError, match=r"`scores.timeout_s`: .* less than or equal to 604800"):
        check_config(changed(scores={"command": ["true"], "timeout_s": seconds}), "tiny")


def test_rounds_from_one_checkpoint_start_in_one_state(project: Project) -> None:
    """With a gate that never approves, both rounds start from the base: in the same state, to different candidates."""
    recorded = run(project, gate={"approver": "simulated", "win_rate": 1.0})
    first, second = recorded[(1, "optimise", 1)], recorded[(2, "optimise", 1)]
    assert first["start"] == second["start"]
    assert first["start_state"] == second["start_state"]
    assert first["digest"] != second["digest"]


def test_an_ensemble_is_fitted_warm_and_on_ties(project: Project) -> None:
    """Two members with the lowest counting, each refresh on the one before, ties included: two rounds to the end."""
    shape = {"pooling": "sum", "surprise": True, "members": 2, "combine": "worst_case"}
    training = {"epochs": 1, "batch": 16, "lr": 0.001, "use_ties": True}
    recorded = run(project, reward_model={"shape": shape, "training": training, "start": "warm"}, labels={"temperature": 0})
    fitted = recorded[(1, "fit_reward", 1)]
    assert fitted["pairs"] <= fitted["verdicts"]["a"] + fitted["verdicts"]["b"] + fitted["verdicts"]["tie"]
    model = load_reward_model(*_reward_checkpoint(project, fitted["digest"]))
    assert model.shape.members == 2
    assert verify(project, MlflowStore(project.root)).holds


def _reward_checkpoint(project: Project, digest: str) -> tuple[Path, str]:
    row = project.store.first(select(checkpoints.c.location).where(checkpoints.c.digest == digest))
    return project.absolute(row.location), digest


def test_the_walk_on_the_island_is_a_campaign_too(project: Project) -> None:
    """A world without language: episodes with an environment, the same labels, gates and registry."""
    recorded = run(project, source={"world": "segments"})
    assert recorded[(1, "optimise", 1)]["steps"] == 4
    assert recorded[(1, "evaluate", 1)]["measured"]["gold"] is not None
    assert verify(project, MlflowStore(project.root)).holds


def test_a_campaign_can_train_an_adapter(project: Project) -> None:
    """Candidates are checkpoints of the adapter alone, bound to the base; the second round trains the approved one on."""
    recorded = run(
        project, adapter={"rank": 2, "alpha": 4.0}, gate={"approver": "simulated", "win_rate": 0.0}, rounds=2
    )
    base, first, second = list_versions(project.store, "policy")
    assert second.parent == first.version
    for version in (first, second):
        location = project.absolute(version.location)
        assert verify_checkpoint(location, version.digest).kind == "adapter"
        held = load_policy(project.absolute(base.location), base.digest)
        assert load_policy(location, version.digest, base=held).adapter is not None
    assert recorded[(2, "settle", 1)]["decision"] == "approved"
    assert verify(project, MlflowStore(project.root)).holds


def test_an_unknown_method_and_a_key_of_another_one_are_named() -> None:
    """The error says what there is, without a level that no file has."""
    with pytest.raises(ConfigError, match=r"optimise.*no method 'rlo'") as refused:
        check_config(changed(optimise={"method": "rlo"}), "tiny")
    assert "rloo, grpo, ppo" in str(refused.value.remedy)
    with pytest.raises(ConfigError, match=r"unknown key `optimise.gae_lambda`"):
        check_config(changed(optimise={"method": "grpo", "gae_lambda": 0.9}), "tiny")


def test_ties_are_counted_as_pairs_only_where_they_are_learned_from(project: Project) -> None:
    """Noiseless annotators tie sometimes; without `use_ties` the record of a fit counts decisive labels alone."""
    recorded = run(project, labels={"temperature": 0, "initial": 48}, rounds=1)
    fitted = recorded[(0, "fit_reward", 1)]
    assert fitted["verdicts"]["tie"] > 0
    assert fitted["pairs"] <= fitted["verdicts"]["a"] + fitted["verdicts"]["b"]
