"""Waiting for a Prefect server: for one of ours only, and no longer than it lives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlback.errors import StageError
from rlback.orchestration import engine
from rlback.project import Project

NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch):
    for name in ("PREFECT_API_URL", engine.STARTED_BY_US):
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_ends_at_once_is_not_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch):
    """It is named as ended, with its status, and the environment is as before."""
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    monkeypatch.setattr(engine, "_start", lambda project: (ended, NOBODY))
    with pytest.raises(StageError, match="ended at once with status 3"), engine.server(project) as until_it_answers:
        assert os.environ["PREFECT_API_URL"] == os.environ[engine.STARTED_BY_US] == NOBODY
        until_it_answers()
    assert "PREFECT_API_URL" not in os.environ
    assert engine.STARTED_BY_US not in os.environ


def test_a_server_that_somebody_configured_is_taken_as_it_is(project: Project, monkeypatch: pytest.MonkeyPatch):
    """Whether it answers, and what it asks for first, is between Prefect and that server."""
    monkeypatch.setenv("PREFECT_API_URL", NOBODY)
    monkeypatch.setattr(engine, "_start", lambda project: pytest.fail("a second server was started"))
    monkeypatch.setattr(engine, "_require_answer", lambda url, process: pytest.fail("it was waited for"))
    with engine.server(project) as until_it_answers:
        until_it_answers()
    assert os.environ["PREFECT_API_URL"] == NOBODY


def test_a_server_that_a_parent_of_ours_started_is_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setenv("PREFECT_API_URL", NOBODY)
    monkeypatch.setenv(engine.STARTED_BY_US, NOBODY)
    monkeypatch.setattr(engine, "_require_answer", lambda url, process: asked.append((url, process)))
    with engine.server(project) as until_it_answers:
        assert asked == []
        until_it_answers()
    assert asked == [(NOBODY, None)]
