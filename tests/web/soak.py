"""The console against schemathesis: requests made up from the OpenAPI document, none answered with 5xx. `make soak`.

Not part of the test suite: it takes minutes. `SOAK_EXAMPLES` sets how many requests an operation gets (20).
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from rlback.accounts.roles import PERMISSIONS
from rlback.accounts.sessions import make_token
from rlback.accounts.users import add_user, find_user
from rlback.records import Actor
from rlback.registry.verification import verify
from rlback.web.app import make_app
from tests.web.conftest import BASE, PASSWORD

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "20"))
ROLES = ["annotator", "approver", "operator", "auditor", "emergency", "admin"]


def test_nothing_made_up_from_the_document_is_answered_with_5xx(story):
    """Each operation with good and bad values, by a token of somebody with every role; the ledger holds afterwards."""
    from starlette.testclient import TestClient

    add_user(story.store, "all", PASSWORD, ROLES, Actor("root", "human"))
    token, _ = make_token(story.store, find_user(story.store, "all"), "soak", PERMISSIONS, 1)
    guard = make_app(story)
    guard.buckets.take = lambda *_: 0.0  # type: ignore[method-assign]
    client = TestClient(guard, base_url=BASE, raise_server_exceptions=False)
    schema = schemathesis.openapi.from_dict(guard.openapi())
    failed: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in ("/users/{name}", "/account/tokens/{id_}/revoke"):
            continue  # would take this user's own roles or token away

        _ask(operation, client, token, failed)
    assert failed == []
    assert verify(story, None).holds


def _ask(operation, client, token: str, failed: list[str]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case):
        client.cookies.clear()  # a token beside a cookie would have to say which page it comes from
        sent = case.as_transport_kwargs(base_url=BASE)
        headers = {**dict(sent.get("headers") or {}), "authorization": f"Bearer {token}", "accept": "application/json"}
        answer = client.request(
            sent["method"], sent["url"], params=sent.get("params"), json=sent.get("json"), data=sent.get("data"),
            headers=headers, follow_redirects=False,
        )  # fmt: skip
        if answer.status_code >= 500 and answer.status_code != 503:
            failed.append(f"{operation.label}: {answer.status_code} {answer.text[:200]}")

    ask()
