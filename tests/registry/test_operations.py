"""Promote, decline, roll back, deploy: the ledger decides and MLflow mirrors."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from rlback.campaign import machine, stages_gate
from rlback.campaign.context import Context, StageResult
from rlback.campaign.plan import Step
from rlback.campaign.summary import method_figures
from rlback.errors import CheckpointError, RegistryError, StageError
from rlback.project import Project
from rlback.records import Actor
from rlback.registry import lineage
from rlback.registry.deployments import deploy, withdraw
from rlback.registry.gates import decide, open_gates
from rlback.registry.lineage import audit
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import (
    get_version,
    list_aliases,
    list_versions,
    reconcile,
    resolve,
)
from rlback.registry.rollback import roll_back
from rlback.registry.verification import verify

ADA = Actor("ada", "human")


def decide_and_advance(project: Project, verdict: str) -> None:
    gate = open_gates(project.store)[0]
    decide(project.store, gate.id, verdict, ADA, digest=gate.digest, reason="as it looks")
    machine.advance(project, gate.campaign)


def test_what_a_simulated_approver_passed_is_never_deployed(finished: Project):
    """Of the finished campaign's versions none can be deployed, whatever its status."""
    for version in list_versions(finished.store):
        with pytest.raises(RegistryError, match=r"simulated approver|only an approved"):
            deploy(finished, MlflowStore(finished.root), version, ADA, "")
    assert "deployed" not in list_aliases(finished.store, "policy")


def test_a_person_approves_and_deploys_and_mlflow_follows(at_gate: Project):
    """After a person's approval the candidate is approved and deployed in the ledger and in MLflow alike."""
    decide_and_advance(at_gate, "approve")
    mirror = MlflowStore(at_gate.root)
    target = resolve(at_gate.store, "policy@approved")
    assert (target.address, target.status) == ("policy@2", "approved")
    assert deploy(at_gate, mirror, target, ADA, "first") is None
    assert mirror.aliases("policy")["deployed"] == 2
    assert list_aliases(at_gate.store, "policy")["deployed"] == 2


def test_a_decline_keeps_the_start_and_every_checkpoint(at_gate: Project):
    """A declined candidate stays in the registry as declined, and the next round starts from the base."""
    decide_and_advance(at_gate, "decline")
    declined = get_version(at_gate.store, "policy", 2)
    assert declined.status == "declined"
    assert at_gate.absolute(declined.location).is_dir()
    recorded = machine.load_recorded(at_gate, "person")
    assert recorded[(2, "optimise", 1)]["start"] == 1
    kinds = [e.kind for e in at_gate.store.events("person")]
    assert "rolled-back" in kinds


def test_rolling_back_to_a_declined_checkpoint_is_refused(at_gate: Project):
    """A rollback goes to what was approved, or to the base."""
    decide_and_advance(at_gate, "decline")
    with pytest.raises(RegistryError, match="never approved"):
        roll_back(at_gate, MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 2), ADA, "why not")


def test_a_rollback_moves_the_alias_and_expires_the_open_gate(at_gate: Project):
    """Approved in round 1, waiting at round 2's gate: back to the base, the gate expires, round 2 is declined."""
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    waiting = open_gates(at_gate.store)[0]
    before = at_gate.store.event_count()
    plan = roll_back(at_gate, mirror, base, ADA, "people complain", dry_run=True)
    assert at_gate.store.event_count() == before
    assert roll_back(at_gate, mirror, base, ADA, "people complain") == plan
    assert list_aliases(at_gate.store, "policy")["approved"] == mirror.aliases("policy")["approved"] == 1
    machine.advance(at_gate, "person")
    settled = machine.load_recorded(at_gate, "person")[(2, "settle", 1)]
    assert (settled["decision"], settled["kept"]) == ("declined", 1)
    assert f"gate {waiting.id} expires undecided" in plan


def test_a_rollback_to_the_base_of_a_deployed_policy_says_what_stands_against_it(at_gate: Project):
    """The base was approved by nobody, so `deployed` cannot follow; the refusal says so and names where it could go."""
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    deploy(at_gate, mirror, resolve(at_gate.store, "policy@approved"), ADA, "first")
    before = list_aliases(at_gate.store, "policy")
    with pytest.raises(RegistryError, match=r"policy@2 is deployed and would have to move too.*nobody approved") as refused:
        roll_back(at_gate, mirror, base, ADA, "go back")
    assert "rlback withdraw policy@2" in refused.value.remedy
    assert list_aliases(at_gate.store, "policy") == before


def test_the_deployed_checkpoint_is_taken_out_of_service_and_then_the_base_can_be_gone_back_to(at_gate: Project):
    """Only the deployed one, only with a reason; afterwards nothing serves, in MLflow too, and the ledger says who did it."""
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    first = resolve(at_gate.store, "policy@approved")
    with pytest.raises(RegistryError, match="policy@2 is not deployed; nothing is"):
        withdraw(at_gate, mirror, first, ADA, "leaks")
    deploy(at_gate, mirror, first, ADA, "first")
    with pytest.raises(RegistryError, match="policy@1 is not deployed; policy@2 is"):
        withdraw(at_gate, mirror, base, ADA, "leaks")
    with pytest.raises(RegistryError, match="needs a reason"):
        withdraw(at_gate, mirror, first, ADA, "  ")
    withdraw(at_gate, mirror, first, ADA, "leaks addresses")
    assert "deployed" not in list_aliases(at_gate.store, "policy")
    assert "deployed" not in mirror.aliases("policy")
    said = [e for e in at_gate.store.events(first.campaign) if e.kind == "checkpoint.withdrawn"]
    assert [(e.actor, e.payload["version"], e.payload["reason"]) for e in said] == [("ada", 2, "leaks addresses")]
    assert "approved moves from policy@2 to policy@1" in roll_back(at_gate, mirror, base, ADA, "and back")
    assert verify(at_gate, mirror).holds


def test_what_people_went_back_behind_is_deployed_only_once_it_is_approved_again(at_gate: Project):
    """Approved, rolled back to the base: no deployment, with the remedy, which then works; and the audit tells of all of it."""
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    first = resolve(at_gate.store, "policy@approved")
    gate = open_gates(at_gate.store)[0]
    roll_back(at_gate, mirror, base, ADA, "it leaks")
    with pytest.raises(RegistryError, match="policy@2 was rolled back: policy@1 is approved now") as refused:
        deploy(at_gate, mirror, first, ADA, "all the same")
    assert "rlback rollback policy@2" in refused.value.remedy
    assert "deployed" not in list_aliases(at_gate.store, "policy")
    roll_back(at_gate, mirror, first, ADA, "it was another one")
    deploy(at_gate, mirror, first, ADA, "now")
    found = audit(at_gate, first)
    assert [(a["what"], a["reason"]) for a in found["acts"]] == [
        ("rolled back from it to policy@1", "it leaks"), ("rolled back to it", "it was another one"), ("deployed", "now"),
    ]  # fmt: skip
    closed = [g for g in lineage._round(at_gate.store, "person", 2)["gates"] if g["gate"] == gate.id]
    assert (closed[0]["closed_by"], closed[0]["reason"]) == ("ada (human)", "rolled back to policy@1")


def test_a_report_after_a_rollback_by_hand_names_what_is_approved_now(at_gate: Project):
    decide_and_advance(at_gate, "approve")
    assert method_figures(at_gate, "person")["approved"] == "policy@2"
    roll_back(at_gate, MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1), ADA, "it leaks")
    found = method_figures(at_gate, "person")
    assert (found["approved"], found["by_hand"]) == ("policy@1", [{"from": "policy@2", "to": "policy@1"}])


def test_a_command_given_again_is_recorded_once(at_gate: Project):
    """Deploy, withdraw and roll back twice in a row, as after a kill: one event each; with another reason it is another act."""
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    first = resolve(at_gate.store, "policy@approved")

    def acts() -> list[str]:
        kinds = ("checkpoint.deployed", "checkpoint.withdrawn", "rolled-back")
        return [e.kind for e in at_gate.store.events() if e.kind in kinds]

    for _ in range(2):
        deploy(at_gate, mirror, first, ADA, "first")
    for _ in range(2):
        withdraw(at_gate, mirror, first, ADA, "leaks")
    for _ in range(2):
        roll_back(at_gate, mirror, base, ADA, "go back")
    assert acts() == ["checkpoint.deployed", "checkpoint.withdrawn", "rolled-back"]
    roll_back(at_gate, mirror, base, ADA, "for another reason")
    assert acts()[-2:] == ["rolled-back", "rolled-back"]
    assert verify(at_gate, mirror).holds


def test_only_a_dry_run_of_a_rollback_goes_without_a_reason(at_gate: Project):
    decide_and_advance(at_gate, "approve")
    mirror, base = MlflowStore(at_gate.root), get_version(at_gate.store, "policy", 1)
    with pytest.raises(RegistryError, match="needs a reason"):
        roll_back(at_gate, mirror, base, ADA, " ")
    assert roll_back(at_gate, mirror, base, ADA, "", dry_run=True)


def test_a_rollback_to_altered_weights_is_refused(at_gate: Project):
    """One flipped byte in the target: nothing moves."""
    decide_and_advance(at_gate, "approve")
    base = get_version(at_gate.store, "policy", 1)
    weights = at_gate.absolute(base.location) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        roll_back(at_gate, MlflowStore(at_gate.root), base, ADA, "go back")
    assert list_aliases(at_gate.store, "policy")["approved"] == 2


def test_an_alias_moved_behind_the_ledgers_back_is_moved_back(finished: Project):
    """Somebody moves MLflow's alias; verify says so, reconcile repairs it and records that it did."""
    mirror = MlflowStore(finished.root)
    ours = list_aliases(finished.store, "policy")
    mirror.set_alias("policy", "approved", 1)
    mirror.set_alias("policy", "deployed", 1)
    assert not verify(finished, mirror).holds
    assert len(reconcile(finished, mirror, "policy")) == (1 if ours.get("approved") == 1 else 2)
    assert mirror.aliases("policy") == ours
    assert verify(finished, mirror).holds


def test_an_address_that_names_nothing_says_what_there_is(finished: Project):
    """Unknown versions and aliases are answered with a remedy."""
    with pytest.raises(RegistryError, match="no policy@99"):
        resolve(finished.store, "policy@99")
    with pytest.raises(RegistryError, match="no alias 'deployed'"):
        resolve(finished.store, "policy@deployed")
    with pytest.raises(RegistryError, match="names no checkpoint"):
        resolve(finished.store, "policy 2")


def test_an_audit_names_everything_that_stands_behind_a_checkpoint(finished: Project):
    """Data, labels, annotators, reward model, parent, configuration, code, libraries, decision with evidence."""
    newest = list_versions(finished.store, "policy")[-1]
    found = audit(finished, newest)
    assert len(found["data"]["source"]["sha256"]) == 64
    assert found["data"]["labels"]["md5"].endswith(".dir")
    assert found["reward_model"]["pairs"] > 0
    assert found["parents"][-1]["status"] == "base"
    assert found["campaign"]["config"]["seed"] == 1
    assert found["libraries"]["torch"]
    assert len(found["code"]["digest"]) == 64
    last = found["rounds"][-1]
    assert last["labels"] == [{"annotator": "sim-annotator", "kind": "simulated", "labels": 16}]
    assert last["gates"][0]["evidence"] == next(
        e["payload"]["evidence"]
        for e in found["events"]
        if e["kind"] == "gate.opened" and e["payload"]["round"] == 2
    )


def test_a_rollback_after_the_decision_stands(at_gate: Project):
    """Approved at the gate, then rolled back before the round is settled: the candidate is not promoted past it."""
    gate = open_gates(at_gate.store)[0]
    decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason="as it looks")
    mirror = MlflowStore(at_gate.root)
    roll_back(at_gate, mirror, get_version(at_gate.store, "policy", 1), ADA, "on second thoughts")
    machine.advance(at_gate, gate.campaign)
    assert list_aliases(at_gate.store, "policy")["approved"] == 1
    assert get_version(at_gate.store, "policy", 2).status == "declined"
    recorded = machine.load_recorded(at_gate, "person")
    assert recorded[(1, "settle", 1)]["reason"] == "as it looks (rolled back after the decision)"
    assert recorded[(2, "optimise", 1)]["start"] == 1
    assert verify(at_gate, mirror).findings == []


def test_a_rollback_while_a_round_is_settled_is_not_overwritten(at_gate: Project, monkeypatch: pytest.MonkeyPatch):
    """What was computed before the rollback is not recorded after it; `advance` settles the round anew."""
    gate = open_gates(at_gate.store)[0]
    decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason="as it looks")
    mirror, run = MlflowStore(at_gate.root), stages_gate.run_settle

    def overtaken(context: Context) -> StageResult:
        result = run(context)
        roll_back(at_gate, mirror, get_version(at_gate.store, "policy", 1), ADA, "on second thoughts")
        return result

    with monkeypatch.context() as patch, pytest.raises(StageError, match="was rolled back while"):
        patch.setattr(stages_gate, "run_settle", overtaken)
        machine.advance(at_gate, gate.campaign)
    step = machine.what_next(at_gate, gate.campaign)
    assert isinstance(step, Step)
    machine.run_step(at_gate, gate.campaign, step, mirror)
    assert get_version(at_gate.store, "policy", 2).status == "declined"
    assert list_aliases(at_gate.store, "policy")["approved"] == 1


def test_a_persons_approval_deploys_the_weights_that_were_approved_and_no_others(at_gate: Project):
    """A row that puts other weights under the number that a person approved deploys nothing."""
    gate = open_gates(at_gate.store)[0]
    decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason="as it looks")
    mirror = MlflowStore(at_gate.root)
    for _ in ("decide", "settle"):
        step = machine.what_next(at_gate, "person")
        assert isinstance(step, Step)
        machine.run_step(at_gate, "person", step, mirror)
    with at_gate.store.engine.connect() as connection:
        other = "(SELECT digest FROM versions WHERE version = 1)"
        connection.execute(text(f"UPDATE versions SET digest = {other} WHERE version = 2"))
    with pytest.raises(RegistryError, match="nobody on record"):
        deploy(at_gate, mirror, get_version(at_gate.store, "policy", 2), ADA, "")
