"""The schedule: in the ledger with who set it, kept planned in Prefect, the same at the terminal, in `up` and in the browser."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from rlback.__main__ import main
from rlback.errors import ConfigError
from rlback.orchestration.prefect_api import PrefectApi
from rlback.orchestration.schedule import Schedule, change, current, keep_planned, next_times
from rlback.project import Project
from rlback.records import Actor
from tests.orchestration.fake_prefect import fake_prefect
from tests.web.lean import enter, people  # noqa: F401  (fixtures)

OLI = Actor("oli", "human")


def planned(prefect) -> list[str]:
    return sorted(r["expected_start_time"][11:19] for r in prefect.runs if r["state"]["type"] == "SCHEDULED")


def test_a_change_is_an_event_and_outlives_the_process(project):
    """Only what changes is recorded; the next process reads it from the ledger."""
    assert current(project.store) == Schedule(180.0, False, 0, None, None)
    change(project, OLI, every=60.4)
    change(project, OLI, every=60)
    change(project, OLI, paused=True)
    told = [(e.actor, e.payload) for e in project.store.events("schedule")]
    assert told == [("oli", {"every_s": 60.0, "paused": False}), ("oli", {"every_s": 60.0, "paused": True})]
    held = current(Project(project.root).store)
    assert (held.every, held.paused, held.by) == (60.0, True, "oli")


@pytest.mark.parametrize("every", [4.4, 0, -60, 86_401, float("inf")])
def test_a_time_that_is_none_is_refused(project, every):
    with pytest.raises((ConfigError, OverflowError)):
        change(project, OLI, every=every)
    assert project.store.events("schedule") == []


def test_next_times_are_multiples():
    """By hand: 12:00:00 UTC on 2 January 2026 is a multiple of 90 s since 1970 (1767355200 / 90 = 19637280)."""
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()
    times = next_times(Schedule(90), noon + 1, 2)
    assert [at.isoformat()[11:19] for at in times] == ["12:01:30", "12:03:00"]
    assert next_times(Schedule(90, paused=True), noon) == []


def test_what_is_planned_follows_every_change():
    """Another interval, a pause, and the same interval after it; twice is once, and foreign runs are left alone."""
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()
    with fake_prefect() as prefect:
        api = PrefectApi(prefect.url)
        prefect.add("writer", "SCHEDULED", "Scheduled")
        prefect.runs[0]["expected_start_time"] = "2026-01-02T12:00:07+00:00"
        for _ in range(2):
            keep_planned(api, Schedule(60, number=4), noon)
        assert planned(prefect) == ["12:00:07", "12:01:00", "12:02:00", "12:03:00"]
        keep_planned(api, Schedule(90, number=5), noon)
        assert planned(prefect) == ["12:00:07", "12:01:30", "12:03:00", "12:04:30"]
        keep_planned(api, Schedule(90, paused=True, number=6), noon)
        assert planned(prefect) == ["12:00:07"]
        keep_planned(api, Schedule(90, number=7), noon)
        keep_planned(api, Schedule(60, paused=True, number=8), noon)  # somebody who is late
        keep_planned(api, Schedule(90, number=7), noon)
        assert planned(prefect) == ["12:00:07", "12:01:30", "12:03:00", "12:04:30"]


def test_the_terminal_says_and_changes_it(project, capsys, monkeypatch):
    monkeypatch.chdir(project.root)
    assert main(["schedule", "--every", "600", "--pause", "--as", "mara", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) | {"since": ""} == {"every_s": 600.0, "paused": True, "by": "mara", "since": ""}
    assert main(["schedule", "--resume", "--as", "mara"]) == 0
    assert "every 600 s (set by mara" in capsys.readouterr().out
    assert main(["schedule", "--every", "1"]) == 2
    assert "is not between" in capsys.readouterr().err


def test_an_operator_changes_it_in_the_browser_at_once(people, enter, monkeypatch):  # noqa: F811
    """The next times are planned in the same request; others may look, not change."""
    with fake_prefect() as prefect:
        monkeypatch.setenv("PREFECT_API_URL", prefect.url)
        oli = enter("oli")
        answer = oli.fill("/runs/schedule", {"act": "every", "minutes": "10"})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["every_s"], len(answer.json()["next"]), len(planned(prefect))) == (600.0, 5, 3)
        assert oli.fill("/runs/schedule", {"act": "pause"}).json()["next"] == []
        assert planned(prefect) == []
        page = oli.get("/runs").text
        assert "Paused" in page
        assert "Resume the schedule" in page
        for wrong in ({"act": "every", "minutes": "0"}, {"act": "every", "minutes": "nan"}, {"act": "never"}, {"act": "every"}):
            assert oli.fill("/runs/schedule", wrong).status_code == 422
        eve = enter("eve")
        assert eve.twin("/runs")["schedule"]["paused"] is True
        assert eve.fill("/runs/schedule", {"act": "resume"}).status_code == 403
    monkeypatch.delenv("PREFECT_API_URL")
    assert oli.fill("/runs/schedule", {"act": "resume"}).status_code == 200  # on record without Prefect too
    assert [e.payload["paused"] for e in people.store.events("schedule")] == [False, True, False]
