"""Labels in quarantine: on record, out of every count, and what that does to gates, snapshots and fits."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.errors import DataError, GateRefused
from rlback.labelling.batches import counting_labels
from rlback.ledger.tables import comparisons, labels
from rlback.records import Actor
from rlback.registry.gates import decide, find_gate, open_gates
from rlback.registry.quarantine import lift, put_in
from rlback.registry.verification import verify

EVE, ADA, SIM = Actor("eve", "human"), Actor("ada", "human"), "sim-annotator"


def cross(project, batch):
    rows = project.store.rows(
        select(comparisons.c.id).where(comparisons.c.batch == batch, comparisons.c.source == "cross")
    )
    return [row.id for row in rows]


def test_a_gate_whose_labels_change_is_superseded_and_measured_anew(at_gate):
    """Nobody decides on evidence that no longer holds; the next gate's evidence lacks the label and says whose and why."""
    store, before = at_gate.store, open_gates(at_gate.store)[0]
    one = cross(at_gate, before.id)[0]
    outcome = put_in(store, SIM, EVE, "did not read it", comparison=one)
    assert (outcome.labels, outcome.superseded, outcome.decided) == (1, (before.id,), ())
    with pytest.raises(GateRefused, match="has changed"):
        decide(store, before.id, "approve", ADA, digest=before.digest, reason="")
    machine.advance(at_gate, "person")
    after = open_gates(store)[0]
    assert after.id == f"{before.id}a2"
    assert after.digest != before.digest
    assert after.evidence["labels"]["count"] == before.evidence["labels"]["count"] - 1
    assert after.evidence["statistics"]["win_rate"]["n"] <= before.evidence["statistics"]["win_rate"]["n"]
    held = after.evidence["labels"]["quarantined"]
    assert [(h["annotator"], h["labels"], h["by"], h["reason"]) for h in held] == [(SIM, 1, "eve", "did not read it")]
    assert after.evidence["samples"] == before.evidence["samples"]
    assert [e.kind for e in store.events("person")].count("batch.created") == 2  # no batch was made for it
    assert verify(at_gate, None).findings == []


def test_lifting_brings_the_first_evidence_back(at_gate):
    """The gate after that has the labels of the first, and only the attempt differs."""
    store, before = at_gate.store, open_gates(at_gate.store)[0]
    number = put_in(store, SIM, EVE, "doubtful", batch=before.id).quarantine.id
    machine.advance(at_gate, "person")
    assert open_gates(store)[0].evidence["labels"]["count"] == 0
    outcome = lift(store, number, ADA, "they were right")
    assert outcome.superseded == (f"{before.id}a2",)
    machine.advance(at_gate, "person")
    after = open_gates(store)[0].evidence
    assert {k: v for k, v in after.items() if k != "attempt"} == {
        k: v for k, v in before.evidence.items() if k != "attempt"
    }
    with pytest.raises(DataError, match="lifted already, by ada"):
        lift(store, number, ADA, "again")
    assert verify(at_gate, None).findings == []


def test_more_labels_after_a_superseded_gate_make_a_batch_of_their_own(at_gate):
    """Attempt 2 looks anew at the labels of attempt 1; attempt 3 adds a batch."""
    store, before = at_gate.store, open_gates(at_gate.store)[0]
    put_in(store, SIM, EVE, "doubtful", comparison=cross(at_gate, before.id)[0])
    machine.advance(at_gate, "person")
    second = open_gates(store)[0]
    decide(store, second.id, "more-labels", ADA, digest=second.digest, reason="too few")
    machine.advance(at_gate, "person")
    third = open_gates(store)[0]
    assert third.id == "person.r1a3"
    assert third.evidence["labels"]["count"] == second.evidence["labels"]["count"] + 16
    recorded = load_recorded(at_gate, "person")
    assert {attempt for (round_, stage, attempt) in recorded if stage == "sample" and round_ == 1} == {1, 3}


def test_a_gate_without_these_labels_stays_open(at_gate):
    """Labels of round 0 are no evidence at round 1's gate; a decided gate is named and stands."""
    store, gate = at_gate.store, open_gates(at_gate.store)[0]
    assert put_in(store, SIM, EVE, "late", batch="person.r0").superseded == ()
    assert find_gate(store, gate.id).state == "open"
    decide(store, gate.id, "decline", ADA, digest=gate.digest, reason="no")
    assert put_in(store, SIM, EVE, "later", batch=gate.id).decided == (gate.id,)
    assert find_gate(store, gate.id).state == "declined"


def test_the_next_snapshot_and_fit_are_without_them(at_gate):
    """And a fit goes by the quarantines that its snapshot went by."""
    store, gate = at_gate.store, open_gates(at_gate.store)[0]
    decide(store, gate.id, "decline", ADA, digest=gate.digest, reason="no")
    put_in(store, SIM, EVE, "noise", batch="person.r0")
    with machine.holding(at_gate, "person"):
        machine.prepare(at_gate, "person")
        mirror = machine.MlflowStore(at_gate.root)
        while (due := machine.what_next(at_gate, "person")).stage != "fit_reward":
            machine.run_step(at_gate, "person", due, mirror)
        put_in(store, SIM, EVE, "after the snapshot", batch=gate.id)
        fitted = machine.run_step(at_gate, "person", due, mirror)
    kept = [json.loads(line) for line in (at_gate.state / "snapshots" / "person-r1" / "labels.jsonl").read_text().splitlines()]
    assert {line["comparison"].rpartition(".")[0] for line in kept} == {gate.id}
    assert sum(fitted["verdicts"].values()) == len(kept) == 16
    assert counting_labels(store, gate.id) == []
    assert len(store.rows(select(labels))) == 24 + 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": " "}, "needs a reason"), ({"annotator": "nobody"}, "no label of nobody"),
        ({"comparison": "person.r1.999"}, "no label"), ({"reason": "x" * 3000}, "at most"),
    ],
)  # fmt: skip
def test_what_is_no_quarantine_is_refused(at_gate, fields, message):
    """And nothing is recorded."""
    before = at_gate.store.event_count()
    asked = {"annotator": SIM, "reason": "because", **fields}
    with pytest.raises(DataError, match=message):
        put_in(at_gate.store, asked.pop("annotator"), EVE, asked.pop("reason"), **asked)
    assert at_gate.store.event_count() == before


def test_a_row_that_no_event_made_is_found(at_gate):
    """Somebody takes labels out behind the ledger's back."""
    with at_gate.store.engine.connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO quarantines VALUES (1, 'set', 1, 'sim-annotator', 'person.r1', '', 'quietly', 'eve', '2030')"
        )
    assert [(f.where, f.what) for f in verify(at_gate, None).findings] == [
        ("quarantine 1", "no event in the ledger made it")
    ]


def test_a_database_from_before_gets_the_table(at_gate):
    """An older ledger is opened, and the table is there."""
    from rlback.project import Project

    with at_gate.store.engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE quarantines")
    at_gate.store.close()
    again = Project(at_gate.root)
    assert put_in(again.store, SIM, EVE, "because", batch="person.r1").labels == 16
    with pytest.raises(Exception, match="append-only"), again.store.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM quarantines")
