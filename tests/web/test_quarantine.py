"""Quarantine from the page of a batch."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from rlback.campaign import machine
from rlback.errors import DataError, NotPermitted
from rlback.labelling import queue
from rlback.labelling.batches import open_count, record_label, unlabelled
from rlback.ledger.tables import comparisons
from rlback.records import Actor
from rlback.registry.gates import decide, open_gates
from rlback.registry.quarantine import put_in

EVE, SIM = Actor("eve", "human"), "sim-annotator"
BATCH = "helper.r0"


def test_a_label_goes_into_quarantine_and_comes_out(as_, story):
    """By a form with a reason; the page shows both, and its figures are without it meanwhile."""
    eve = as_("eve")
    before = eve.twin(f"/batches/{BATCH}")
    answer = eve.fill(f"/batches/{BATCH}/quarantine", {"annotator": "cy", "reason": "<b>asleep</b>", "scope": "batch"})
    assert answer.status_code == 200, answer.text
    during = eve.twin(f"/batches/{BATCH}")
    assert during["labels"] == before["labels"] - answer.json()["labels"]
    assert during["quarantined"] == answer.json()["labels"] == 3
    assert during["twice"] == 0
    assert [(a["annotator"], a["labels"], a["quarantined"]) for a in during["annotators"]] == [("bea", 6, 0), ("cy", 3, 3)]
    page = eve.get(f"/batches/{BATCH}", headers={"accept": "text/html"}).text
    assert "&lt;b&gt;asleep&lt;/b&gt;" in page
    number = answer.json()["quarantine"]
    assert eve.fill(f"/quarantines/{number}/lift", {"batch": BATCH}).status_code == 422
    assert eve.fill(f"/quarantines/{number}/lift", {"batch": BATCH, "reason": "awake"}).status_code == 200
    after = eve.twin(f"/batches/{BATCH}")
    assert (after["labels"], after["alpha_nominal"]) == (before["labels"], before["alpha_nominal"])
    kinds = [(e.kind, e.actor) for e in story.store.events("helper")][-2:]
    assert kinds == [("labels.quarantined", "eve"), ("quarantine.lifted", "eve")]


def test_who_may_not_is_refused(as_):
    """Auditors and annotators; a comparison of another batch; a scope that is none."""
    fields = {"annotator": "cy", "reason": "asleep"}
    for name in ("max", "ann", "root"):
        assert as_(name).fill(f"/batches/{BATCH}/quarantine", fields).status_code == 403
        assert as_(name).fill("/quarantines/1/lift", fields).status_code == 403
    eve = as_("eve")
    for more in ({"scope": "comparison", "comparison": "writer.r1.0"}, {"scope": "world"}):
        assert eve.fill(f"/batches/{BATCH}/quarantine", {**fields, **more}).status_code == 422


def test_the_terminal_does_the_same(story, monkeypatch, capsys):
    """`rlback labels quarantine`, `quarantines`, `lift`."""
    from rlback.__main__ import main

    monkeypatch.chdir(story.root)
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    gate = "writer.r3"
    assert main(["labels", "quarantine", "sim-annotator", "--batch", gate, "--reason", "doubtful", "--as", "oli"]) == 0
    assert f"Gate {gate} is superseded" in capsys.readouterr().out
    assert main(["gate", "show", gate]) == 0
    assert "superseded" in capsys.readouterr().out
    assert main(["labels", "lift", "1", "--reason", "no", "--as", "oli"]) == 0
    assert main(["labels", "quarantines"]) == 0
    assert "1  lifted  labels of sim-annotator in writer.r3; by oli" in capsys.readouterr().out
    assert main(["labels", "lift", "7", "--reason", "no"]) == 3
    assert main(["verify", "--quick"]) == 0


def test_what_has_only_labels_in_quarantine_is_labelled_again(story):
    """Everywhere: the batch waits for the comparison, others are offered it, and the annotator is told."""
    store, batch = story.store, "helper.r1"
    first = unlabelled(store, batch)[0].id
    record_label(store, first, Actor("mallory", "human"), "a", "a")
    assert open_count(store, batch) == 15
    outcome = put_in(store, "mallory", EVE, "clicks without reading")
    assert outcome.quarantine.scope == "all labels of mallory"
    assert open_count(store, batch) == 16
    assert first in [item.id for item in unlabelled(store, batch)]
    with pytest.raises(DataError, match="in quarantine since"):
        queue.next_shown(store, batch, Actor("mallory", "human"))
    taken = []
    while (shown := queue.next_shown(store, batch, Actor("ann", "human"), taken)) is not None:
        taken.append(shown.item.id)
    assert first in taken


def test_who_shaped_the_evidence_does_not_approve_it(story):
    """Eve put a label at the gate in quarantine: joe approves, eve may only decline."""
    gate = open_gates(story.store)[0]
    one = story.store.first(select(comparisons.c.id).where(comparisons.c.batch == gate.id, comparisons.c.source == "cross"))
    put_in(story.store, SIM, EVE, "doubtful", comparison=one.id)
    machine.advance(story, "writer")
    gate = open_gates(story.store)[0]
    with pytest.raises(NotPermitted, match="eve decided which labels"):
        decide(story.store, gate.id, "approve", EVE, digest=gate.digest, reason="")
    assert decide(story.store, gate.id, "approve", Actor("joe", "human"), digest=gate.digest, reason="").state == "approved"
