"""Getting in over HTTP: the first admin, sessions and their cookies, tokens, the users page."""

from __future__ import annotations

import pytest

from rlback.web.app import make_app
from tests.web.conftest import BASE, PASSWORD, Browser


@pytest.fixture
def fresh(project):
    """A console without users, whose terminal shows `the-code`."""
    return Browser(make_app(project, setup_code="the-code"), base_url=BASE, raise_server_exceptions=False)


def test_without_users_everything_leads_to_making_the_first_admin(fresh):
    """The start page leads there, pages are refused, the form says what it is for."""
    page = fresh.get("/", headers={"accept": "text/html"})
    assert page.url.path == "/setup"
    assert "There are no users yet" in page.text
    assert fresh.get("/gates", headers={"accept": "application/json"}).status_code == 401


def test_the_first_admin_needs_the_code_from_the_terminal(fresh):
    """Somebody else on the machine does not see it; after the first there is no second."""
    fields = {"name": "root", "password": PASSWORD, "again": PASSWORD, "roles": "approver"}
    assert fresh.fill("/setup", {**fields, "code": "guess"}, page="/setup").status_code == 403
    assert fresh.fill("/setup", {**fields, "code": "the-code", "again": "other"}, page="/setup").status_code == 422
    answer = fresh.fill("/setup", {**fields, "code": "the-code"}, page="/setup")
    assert answer.json() == {"user": "root", "roles": ["approver", "admin"]}
    assert fresh.get("/setup", headers={"accept": "application/json"}).status_code == 409
    assert fresh.fill("/setup", {**fields, "code": "the-code", "name": "two"}, page="/sign-in").status_code == 422
    assert fresh.fill("/sign-in", {"name": "root", "password": PASSWORD}, page="/sign-in").status_code == 200
    assert fresh.get("/users").status_code == 200


def test_the_cookie_cannot_be_read_or_sent_by_others_and_is_new_each_time(anybody):
    """HttpOnly, SameSite=Strict; signing in replaces whatever session cookie somebody planted."""
    anybody.cookies.set("rlback_session", "planted", domain="127.0.0.1")
    answer = anybody.fill("/sign-in", {"name": "ann", "password": PASSWORD}, page="/sign-in")
    header = next(v for v in answer.headers.get_list("set-cookie") if v.startswith("rlback_session="))
    assert "HttpOnly" in header
    assert "SameSite=strict" in header
    assert "planted" not in header


def test_wrong_passwords_are_throttled(anybody):
    """Five, then even the right one."""
    for _ in range(5):
        assert anybody.fill("/sign-in", {"name": "ann", "password": "wrong"}, page="/sign-in").status_code == 403
    answer = anybody.fill("/sign-in", {"name": "ann", "password": PASSWORD}, page="/sign-in")
    assert answer.status_code == 403
    assert "too many" in answer.json()["error"]["message"]


def test_signing_out_ends_the_session_in_the_database(as_):
    """The cookie of before opens nothing."""
    ann = as_("ann")
    cookie = ann.cookies["rlback_session"]
    assert ann.fill("/sign-out").json() == {"signed_in": False}
    ann.cookies.set("rlback_session", cookie, domain="127.0.0.1")
    assert ann.get("/account", headers={"accept": "application/json"}).status_code == 401


def test_a_token_works_without_cookie_and_csrf_within_its_scopes(as_, app):
    """It reads; it does not decide, make tokens, or change the password; revoked it does nothing."""
    eve = as_("eve")
    made = eve.fill("/account/tokens", {"label": "report", "scopes": "look", "days": "7"}).json()
    script = Browser(app, base_url=BASE)
    headers = {"authorization": f"Bearer {made['token']}", "accept": "application/json"}
    found = script.get("/gates/writer.r3", headers=headers).json()
    decision = {"verdict": "approve", "digest": found["digest"]}
    assert script.post("/gates/writer.r3/decision", json=decision, headers=headers).status_code == 403
    assert script.post("/account/tokens", json={"label": "more", "scopes": "look"}, headers=headers).status_code == 403
    assert made["token"] not in eve.get("/account").text
    eve.fill(f"/account/tokens/{made['id']}/revoke")
    assert script.get("/gates", headers=headers).status_code == 401


def test_a_token_that_may_decide_decides_as_its_owner_and_under_the_same_rules(as_, app):
    """Ada started the campaign: her token approves no more than she does."""
    ada = as_("ada")
    token = ada.fill("/account/tokens", {"label": "t", "scopes": ["look", "decide"], "days": "1"}).json()["token"]
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    script = Browser(app, base_url=BASE)
    digest = script.get("/gates/writer.r3", headers=headers).json()["digest"]
    answer = script.post("/gates/writer.r3/decision", json={"verdict": "approve", "digest": digest}, headers=headers)
    assert answer.status_code == 403
    assert "started campaign" in answer.json()["error"]["message"]


def test_a_session_cookie_beside_a_token_does_not_lift_the_origin_check(as_):
    """A page elsewhere cannot add the header, but what sends cookies must say where it comes from."""
    eve = as_("eve")
    answer = eve.post("/sign-out", headers={"authorization": "Bearer x", "accept": "application/json"})
    assert answer.status_code == 403


def test_the_admin_adds_changes_and_disables(as_, anybody):
    """A new approver; disabled, his session ends; nobody else may."""
    root = as_("root")
    assert root.fill("/users", {"name": "kim", "password": PASSWORD, "roles": ["approver", "auditor"]}).status_code == 200
    assert anybody.fill("/sign-in", {"name": "kim", "password": PASSWORD}, page="/sign-in").status_code == 200
    assert root.fill("/users/kim", {"act": "roles", "roles": "auditor"}).json()["roles"] == ["auditor"]
    assert root.fill("/users/kim", {"act": "state", "state": "disabled", "reason": ""}).status_code == 422
    assert root.fill("/users/kim", {"act": "state", "state": "disabled", "reason": "left"}).json()["state"] == "disabled"
    assert anybody.get("/account", headers={"accept": "application/json"}).status_code == 401
    assert root.fill("/users/nobody", {"act": "roles", "roles": "auditor"}).status_code == 404
    assert as_("eve").fill("/users", {"name": "x", "password": PASSWORD, "roles": "admin"}).status_code == 403


def test_a_changed_password_takes_the_old_one_and_ends_every_session(as_):
    """Wrong old password, then the right one."""
    ann = as_("ann")
    assert ann.fill("/account/password", {"old": "wrong", "password": "another password"}).status_code == 403
    assert ann.fill("/account/password", {"old": PASSWORD, "password": "another password"}).status_code == 200
    assert ann.get("/account", headers={"accept": "application/json"}).status_code == 401
