"""Whatever is sent to whatever path: an answer below 500, and errors in the one shape."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlback.accounts.users import add_user
from rlback.records import Actor
from rlback.web.app import make_app
from tests.web.conftest import BASE, PASSWORD, Browser

ROLES = ["annotator", "approver", "operator", "auditor", "admin"]
NAMES = (
    "helper.r1", "writer.r3", "writer", "writer@2", "1", "99999999999999999999", "-1", "..", "%", "\x00", "\u202e", "é" * 300,
)  # fmt: skip
WORDS = (*NAMES, "approve", "decline", "left1", "roles", "raw", "0" * 64, "trl")
TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(WORDS))
FIELDS = (
    "verdict", "digest", "reason", "comparison", "choice", "key", "flags", "rationale", "seconds", "name", "password",
    "roles", "act", "state", "form", "confirm", "text", "after", "days", "scopes", "label", "without", "second",
)  # fmt: skip
VALUES = st.one_of(TEXTS, st.lists(TEXTS, max_size=3), st.integers(), st.none(), st.booleans(), st.floats(), st.just({"a": 1}))
#: Ends the session, or would end this user's ability to go on.
LEFT_OUT = {"/sign-out", "/account/password"}


@pytest.fixture
def everybody(story):
    """Somebody with every role, never told to wait."""
    add_user(story.store, "all", PASSWORD, ROLES, Actor("root", "human"))
    app = make_app(story)
    browser = Browser(app, base_url=BASE, raise_server_exceptions=False)
    browser.fill("/sign-in", {"name": "all", "password": PASSWORD}, page="/sign-in")
    app.buckets.take = lambda *_: 0.0  # type: ignore[method-assign]
    return browser, app


def holds(answer, path: str) -> None:
    assert answer.status_code < 500, (path, answer.text[:300])
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"status", "kind", "message", "remedy"}, path


def paths_of(app, method: str) -> list[str]:
    return sorted(p for p, acts in app.openapi()["paths"].items() if method in acts and p not in LEFT_OUT)


def test_any_address_is_answered(everybody):
    """Every page with odd names in its path and odd queries behind it."""
    browser, app = everybody
    choices = paths_of(app, "get")

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(choices), st.lists(TEXTS, min_size=3, max_size=3), st.dictionaries(
        st.sampled_from(("on", "kind", "subject", "actor", "since", "until", "before", "files", "second", "code", "said")), TEXTS,
        max_size=3,
    ))  # fmt: skip
    def check(path, names, query):
        for part in ("{id_}", "{batch}", "{policy}", "{address}", "{number}", "{name}"):
            path = path.replace(part, quote(names[len(part) % 3].encode("utf-8", "replace"), safe="") or "x")
        params = {k: v.encode("utf-8", "replace").decode() for k, v in query.items()}
        holds(browser.get(path, params=params, headers={"accept": "application/json"}, follow_redirects=False), path)

    check()


def test_any_body_is_answered(everybody):
    """Every form with odd fields, as JSON; the ledger holds afterwards."""
    browser, app = everybody
    token, choices = browser.csrf(), paths_of(app, "post")
    headers = {"origin": BASE, "accept": "application/json", "content-type": "application/json", "x-csrf-token": token}

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(choices), st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
    def check(path, name, fields):
        for part in ("{id_}", "{batch}", "{policy}", "{address}", "{name}"):
            path = path.replace(part, quote(name, safe=""))
        path = path.replace("{number}", "1")
        if fields.get("name") != "all" and "all" not in path:
            answer = browser.post(path, content=json.dumps(fields).encode(), headers=headers, follow_redirects=False)
            holds(answer, path)

    check()
    assert browser.post("/ledger/verify", content=b"{}", headers=headers).json()["result"]["holds"] is True
