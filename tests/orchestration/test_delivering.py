"""The outbox: written with the change, delivered once, tried again, and nothing lost where Prefect is away."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import select, update

from rlback.errors import ConfigError, GateRefused
from rlback.ledger.outbox import deliveries, messages
from rlback.notices.webhooks import NotDelivered
from rlback.orchestration.delivering import ATTEMPTS, deliver_due, outbox_counts
from rlback.orchestration.tending import tend
from rlback.records import Actor
from rlback.registry.gates import decide, find_gate
from tests.orchestration.fake_prefect import fake_prefect

EVE = Actor("eve", "human")


@pytest.fixture
def prefect(monkeypatch):
    with fake_prefect() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        yield fake


def told(project) -> list[str]:
    return [row.kind for row in project.store.rows(select(messages.c.kind).order_by(messages.c.seq))]


def decline(project) -> None:
    gate = find_gate(project.store, "person.r1")
    decide(project.store, gate.id, "decline", EVE, digest=gate.digest, reason="no better")


def webhook(project, **secret: str) -> None:
    (project.root / "secret").write_text(secret.get("secret", "a secret of some length"))
    (project.root / "notifications.yaml").write_text(
        "webhooks:\n- {name: team, url: 'https://hooks.example.org/x', secret_file: secret, events: [gate.decided]}\n"
    )


def now_due(project) -> None:
    with project.store.transaction() as transaction:
        transaction.execute(update(deliveries).values(due=0.0))


def test_a_message_is_written_with_its_change_or_not_at_all(at_gate):
    """A refused decision leaves none."""
    before = told(at_gate)
    with pytest.raises(GateRefused):
        decide(at_gate.store, "person.r1", "decline", EVE, digest="0" * 64, reason="x")
    assert told(at_gate) == before
    decline(at_gate)
    assert told(at_gate) == [*before, "gate.decided"]


def test_a_decision_starts_the_next_flow_run_at_once_and_once(at_gate, prefect):
    """One flow run, however often the outbox is looked at."""
    decline(at_gate)
    assert [(d["target"], d["state"]) for d in deliver_due(at_gate)] == [("prefect", "delivered")]
    assert deliver_due(at_gate) == []
    assert [run["parameters"]["campaign"] for run in prefect.runs] == ["person"]
    assert tend(at_gate) == ["person: flow run 00000000"]
    assert len(prefect.runs) == 1


def test_where_prefect_is_away_the_row_waits_and_the_schedule_makes_up_for_it(at_gate, prefect):
    """The decision stands, the error is kept, and it is tried again later."""
    decline(at_gate)
    prefect.down = True
    (one,) = deliver_due(at_gate)
    assert (one["state"], "500" in one["error"]) == ("pending", True)
    assert deliver_due(at_gate) == []
    prefect.down = False
    assert tend(at_gate) == ["person: flow run 00000000"]
    now_due(at_gate)
    assert [d["state"] for d in deliver_due(at_gate)] == ["delivered"]
    assert len(prefect.runs) == 1


def test_a_campaign_that_waits_or_is_held_starts_nothing(at_gate, prefect):
    """At a gate nothing is due; while somebody holds the campaign, that one goes on."""
    from rlback.campaign import machine
    from rlback.orchestration.waking import can_go_on

    assert tend(at_gate) == []
    decline(at_gate)
    assert can_go_on(at_gate, "person")
    with at_gate.lock("campaign-person", "campaign person"):
        pass
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with machine.holding(at_gate, "person"):
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    try:
        assert not can_go_on(at_gate, "person")
        assert [d["state"] for d in deliver_due(at_gate)] == ["needless"]
    finally:
        release.set()
        thread.join()


def test_a_webhook_is_tried_again_with_growing_waits_and_given_up_in_the_end(at_gate, prefect):
    """Failures that may pass are tried again; others are not."""
    webhook(at_gate)
    decline(at_gate)
    waits = []

    def away(hook, seq, body):
        raise NotDelivered("team: hooks.example.org answers 503")

    for _ in range(ATTEMPTS):
        begun = time.time()
        deliver_due(at_gate, send_one=away)
        row = at_gate.store.first(select(deliveries).where(deliveries.c.target == "team"))
        waits.append(row.due - begun)
        now_due(at_gate)
    assert row.state == "given-up"
    assert row.attempts == ATTEMPTS
    assert waits[3] > 3 * waits[0]
    assert outbox_counts(at_gate) == {"delivered": 1, "given-up": 1}


def test_of_two_that_deliver_at_once_one_does(at_gate, prefect):
    """The claim is a compare-and-set."""
    webhook(at_gate)
    decline(at_gate)
    sent, barrier = [], threading.Barrier(2)

    def slow(hook, seq, body):
        sent.append(seq)
        time.sleep(0.3)

    def run() -> None:
        barrier.wait()
        deliver_due(at_gate, send_one=slow)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 1


def test_a_wrong_file_is_said_and_flow_runs_start_all_the_same(at_gate, prefect):
    """What is for webhooks waits until the file is right."""
    webhook(at_gate, secret="short")
    decline(at_gate)
    with pytest.raises(ConfigError, match="fewer than"):
        deliver_due(at_gate)
    assert [d["state"] for d in deliver_due(at_gate, only="prefect")] == ["delivered"]
    webhook(at_gate)
    got = []
    deliver_due(at_gate, send_one=lambda hook, seq, body: got.append(body))
    assert b'"verdict": "decline"' in got[0]


def test_the_last_label_of_a_batch_is_a_message(project):
    """The last comparison's first label, and no later revision of it."""
    from rlback.campaign import machine
    from rlback.config import check_config
    from rlback.labelling.batches import record_label, unlabelled
    from tests.conftest import changed

    people = {"annotators": "human", "initial": 3, "inside": 4, "cross": 12}
    machine.advance(
        project, machine.start(project, check_config(changed(name="h", labels=people, gate={"approver": "human"}), "h"), EVE)
    )
    items = unlabelled(project.store, "h.r0")
    for item in items:
        assert "batch.labelled" not in told(project)
        record_label(project.store, item.id, EVE, "a", "a", 1.0)
    record_label(project.store, items[0].id, EVE, "b", "a", 1.0)
    assert told(project).count("batch.labelled") == 1
