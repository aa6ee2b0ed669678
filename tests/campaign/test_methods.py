"""Every way to optimise a policy is the same campaign with other settings."""

from __future__ import annotations

import pytest

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.config import check_config
from rlback.errors import ConfigError
from rlback.models.checkpoint import load_policy
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
        {"method": "ppo", "epochs": 2},
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


def test_rounds_from_one_checkpoint_start_in_one_state(project: Project) -> None:
    """With a gate that never approves, both rounds start from the base: in the same state, to different candidates."""
    recorded = run(project, gate={"approver": "simulated", "win_rate": 1.0})
    first, second = recorded[(1, "optimise", 1)], recorded[(2, "optimise", 1)]
    assert first["start"] == second["start"]
    assert first["start_state"] == second["start_state"]
    assert first["digest"] != second["digest"]


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
    with pytest.raises(ConfigError, match=r"optimise.*'rloo'"):
        check_config(changed(optimise={"method": "rlo"}), "tiny")
    with pytest.raises(ConfigError, match=r"unknown key `optimise.gae_lambda`"):
        check_config(changed(optimise={"method": "grpo", "gae_lambda": 0.9}), "tiny")
