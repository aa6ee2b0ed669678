"""Decisions at a gate: bound to the evidence shown, and the first one stands."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from rlback.campaign import machine
from rlback.errors import GateRefused
from rlback.ledger.tables import gates
from rlback.project import Project
from rlback.records import Actor, canonical_json
from rlback.registry.gates import decide, find_gate, open_gates
from rlback.registry.verification import verify

ADA, BOB = Actor("ada", "human"), Actor("bob", "human")


@pytest.fixture
def kind(on_both: str) -> str:
    """Every test of this module on both databases."""
    return on_both


def gate_of(project: Project):
    return open_gates(project.store)[0]


def test_an_approval_below_the_threshold_needs_a_reason(at_gate: Project):
    """The candidate's win rate is below 0.99, so an approval without a word is refused, and one with a reason stands."""
    gate = open_gates(at_gate.store)[0]
    text_ = canonical_json({**gate.evidence, "rule": {**gate.evidence["rule"], "at_least": 0.99}})
    with at_gate.store.transaction() as transaction:
        transaction.execute(update(gates).where(gates.c.id == gate.id).values(evidence=text_))
    with pytest.raises(GateRefused, match=r"is below 0\.99, the campaign's threshold"):
        decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason=" ")
    assert decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason="the best so far").state == "approved"


def test_a_gate_that_is_not_there_names_those_that_are(at_gate: Project):
    """A misspelt id is answered with the open gate's."""
    with pytest.raises(GateRefused, match="no gate persn") as refused:
        find_gate(at_gate.store, "persn.r1")
    assert "person.r1" in refused.value.remedy


@pytest.mark.parametrize("digest", ["0" * 64, "", "abc"])
def test_a_digest_that_is_not_the_evidences_is_refused(at_gate: Project, digest: str):
    """A stale, empty or too short digest leaves the gate open."""
    gate = gate_of(at_gate)
    with pytest.raises(GateRefused, match="digest"):
        decide(at_gate.store, gate.id, "approve", ADA, digest=digest, reason="")
    assert find_gate(at_gate.store, gate.id).state == "open"


def test_eleven_right_digits_are_too_few_and_twelve_are_enough(at_gate: Project):
    """The shortest digest that counts has 12 digits."""
    gate = gate_of(at_gate)
    with pytest.raises(GateRefused):
        decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest[:11], reason="")
    assert (
        decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest[:12], reason="").state == "approved"
    )


@pytest.mark.parametrize("verdict", ["decline", "more-labels"])
def test_a_decline_or_a_call_for_more_labels_needs_a_reason(at_gate: Project, verdict):
    """Blanks are no reason."""
    gate = gate_of(at_gate)
    with pytest.raises(GateRefused, match="reason"):
        decide(at_gate.store, gate.id, verdict, ADA, digest=gate.digest, reason="  ")


def test_the_first_decision_stands_and_the_second_is_told_whose_it_was(at_gate: Project):
    """Bob's decline after ada's approval changes nothing and names ada."""
    gate = gate_of(at_gate)
    decide(at_gate.store, gate.id, "approve", ADA, digest=gate.digest, reason="")
    with pytest.raises(GateRefused, match="approve by ada"):
        decide(at_gate.store, gate.id, "decline", BOB, digest=gate.digest, reason="no")
    assert find_gate(at_gate.store, gate.id).decision["approver"] == "ada"


def test_of_eight_approvers_at_once_exactly_one_decides(at_gate: Project):
    """Eight threads over two openings of the database decide at once: one decision and event, seven refusals that say whose."""
    gate, outcomes = gate_of(at_gate), []
    other, start = Project(at_gate.root), threading.Barrier(8)

    def go(n: int) -> None:
        # Threads of one opening queue inside the process; those of two meet in the database.
        store = (at_gate, other)[n % 2].store
        start.wait()
        try:
            decide(store, gate.id, "decline", Actor(f"p{n}", "human"), digest=gate.digest, reason="x")
            outcomes.append(("decided", f"p{n}"))
        except GateRefused as refused:
            outcomes.append(("refused", refused.message))

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [e for e in at_gate.store.events("person") if e.kind == "gate.decided"]
    assert [said for what, said in outcomes if what == "decided"] == [e.actor for e in events]
    refusals = [said for what, said in outcomes if what == "refused"]
    assert len(events) == 1
    assert len(refusals) == 7
    assert all(f"decline by {events[0].actor}" in said for said in refusals)
    other.store.close()


def test_gold_is_not_part_of_what_an_approver_sees(at_gate: Project):
    """The evidence holds no gold reward anywhere."""
    assert "gold" not in str(gate_of(at_gate).evidence)


def test_a_stopped_campaign_takes_no_decision(at_gate: Project):
    """Its open gate expires with it, and that is on record."""
    gate = open_gates(at_gate.store)[0]
    machine.stop(at_gate, gate.campaign, ADA, "enough")
    with pytest.raises(GateRefused, match="is expired"):
        decide(at_gate.store, gate.id, "approve", BOB, digest=gate.digest, reason="")
    assert verify(at_gate, None).findings == []
