"""Flow runs in the console: what is said with Prefect and without, and what may be started, tried again, cancelled."""

from __future__ import annotations

import pytest

from tests.orchestration.fake_prefect import fake_prefect


@pytest.fixture
def prefect(monkeypatch):
    with fake_prefect() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        yield fake


@pytest.fixture
def decided(story):
    """The gate of `writer` is declined: the campaign can go on."""
    from rlback.records import Actor
    from rlback.registry.gates import decide, find_gate

    gate = find_gate(story.store, "writer.r3")
    decide(story.store, gate.id, "decline", Actor("eve", "human"), digest=gate.digest, reason="says less")
    return story


def test_without_prefect_the_page_says_so_and_what_to_type(as_, monkeypatch):
    """Everything else on the page is there; nothing is offered that cannot be done."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    oli = as_("oli")
    found = oli.twin("/runs")
    assert found["prefect"]["up"] is False
    assert found["prefect"]["type"] == "start it: rlback up"
    assert {c["campaign"]: c["can_start"] for c in found["campaigns"]} == {"writer": False, "helper": False}
    page = oli.get("/runs").text
    assert "Prefect is not up" in page
    assert "rlback up" in page
    assert oli.fill("/runs/start", {"campaign": "writer"}).status_code == 409


def test_a_run_that_failed_is_shown_with_why_and_can_be_tried_again(as_, decided, prefect):
    """The state's message and the last lines of the error; a new run carries the campaign on, by name in the ledger."""
    failed = prefect.add("writer", "FAILED", "Failed", "Flow run encountered an exception: StageError: the disk is full")
    prefect.logs = [{"message": "Traceback\n  somewhere\nStageError: the disk is full"}]
    oli = as_("oli")
    found = oli.twin("/runs")
    run = next(r for r in found["runs"] if r["id"] == failed)
    assert run["lines"][-1] == "StageError: the disk is full"
    assert (run["can_retry"], run["can_cancel"], found["schedule"]["every_s"]) == (True, False, 180)
    assert "the disk is full" in oli.get("/runs").text
    answer = oli.fill(f"/runs/{failed}/retry")
    assert answer.status_code == 200, answer.text
    assert [r["state"]["type"] for r in prefect.runs] == ["FAILED", "SCHEDULED"]
    event = decided.store.events("writer")[-1]
    assert (event.kind, event.actor) == ("flow-run.started", "oli")


def test_a_run_is_cancelled_once(as_, prefect):
    running = prefect.add("helper", "RUNNING", "Running")
    oli = as_("oli")
    assert oli.fill(f"/runs/{running}/cancel").status_code == 200
    assert prefect.runs[0]["state"]["type"] == "CANCELLING"
    prefect.runs[0]["state"] = {"type": "CANCELLED", "name": "Cancelled"}
    assert oli.fill(f"/runs/{running}/cancel").status_code == 409


def test_what_waits_for_a_person_is_not_started(as_, prefect):
    """The reason is in the refusal; Prefect hears nothing."""
    answer = as_("oli").fill("/runs/start", {"campaign": "writer"})
    assert answer.status_code == 409
    assert "waits for a decision at gate writer.r3" in answer.json()["error"]["message"]
    assert prefect.runs == []


@pytest.mark.parametrize("name", ["eve", "max", "root"])
def test_only_an_operator_runs(as_, decided, prefect, name):
    """Others look."""
    browser = as_(name)
    assert browser.twin("/runs")["may_run"] is False
    assert browser.fill("/runs/start", {"campaign": "writer"}).status_code == 403
    assert prefect.runs == []


@pytest.mark.parametrize("id_", ["x", "..", "00000000-0000-4000-8000-000000000099"])
def test_an_unknown_run_is_404(as_, prefect, id_):
    assert as_("oli").fill(f"/runs/{id_}/cancel").status_code == 404


def test_prefect_that_breaks_while_asked_is_503_or_said(as_, decided, prefect):
    """Never a 500."""
    prefect.down = True
    oli = as_("oli")
    assert oli.twin("/runs")["prefect"]["up"] is False
    assert oli.fill("/runs/start", {"campaign": "writer"}).status_code in (409, 503)
