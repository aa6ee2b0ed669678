"""Accounts: who gets in, for how long, and what is kept of passwords, cookies and tokens."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select, update

from rlback.accounts import sessions as rooms
from rlback.accounts.users import add_user, find_user, hash_password, list_users, set_password, set_roles, set_state
from rlback.errors import ConfigError
from rlback.ledger.console_tables import failures, sessions, tokens, users
from rlback.records import Actor

PASSWORD = "correct horse battery"
ROOT = Actor("root", "human")


@pytest.fixture
def store(project):
    """A database with an admin and an annotator."""
    add_user(project.store, "root", PASSWORD, ["admin"], None, first=True)
    add_user(project.store, "ann", PASSWORD, ["annotator"], ROOT)
    return project.store


def test_no_secret_is_kept_anywhere(store):
    """Passwords as Argon2id; cookies and tokens as digests; none of the three in any event."""
    cookie = rooms.sign_in(store, "ann", PASSWORD, "here")
    token, _ = rooms.make_token(store, find_user(store, "ann"), "script", ["label"], 1)
    kept = str([list(r) for t in (users, sessions, tokens) for r in store.rows(select(t))]) + str(store.events())
    assert "$argon2id$" in kept
    for secret in (PASSWORD, cookie, token):
        assert secret not in kept


def test_every_change_of_a_user_is_an_event_with_its_actor(store):
    """Added, roles, password, disabled, enabled."""
    set_roles(store, "ann", ["approver"], ROOT)
    set_password(store, "ann", "another password", ROOT)
    set_state(store, "ann", "disabled", ROOT, "left")
    set_state(store, "ann", "active", ROOT, "came back")
    told = [(e.kind, e.actor) for e in store.events("user:ann")]
    kinds = ("user.added", "user.roles", "user.password", "user.disabled", "user.active")
    assert told == [(kind, "root") for kind in kinds]
    assert store.events("user:ann")[1].payload["from"] == ["annotator"]


def test_the_first_admin_is_made_once(store):
    """However many try at the same moment."""
    with pytest.raises(ConfigError, match="admin already"):
        add_user(store, "mallory", PASSWORD, ["admin"], None, first=True)


def test_of_four_first_admins_at_once_one_is_made(project):
    """Four threads, one account."""
    outcomes = []

    def go(n):
        try:
            add_user(project.store, f"user{n}", PASSWORD, ["admin"], None, first=True)
            outcomes.append(True)
        except ConfigError:
            outcomes.append(False)

    threads = [threading.Thread(target=go, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, False, False, True]
    assert len(list_users(project.store)) == 1


def test_there_is_always_an_admin(store):
    """The only one cannot be disabled or made something else."""
    with pytest.raises(ConfigError, match="only admin"):
        set_state(store, "root", "disabled", ROOT, "no")
    with pytest.raises(ConfigError, match="only admin"):
        set_roles(store, "root", ["annotator"], ROOT)
    set_roles(store, "ann", ["admin"], ROOT)
    assert set_roles(store, "root", ["annotator"], ROOT).roles == ("annotator",)


def test_two_names_that_look_alike_are_one(store):
    """Case and full-width letters do not make another person."""
    for name in ("ANN", "Ann ", "ａｎｎ"):
        with pytest.raises(ConfigError, match="already"):
            add_user(store, name, PASSWORD, ["annotator"], ROOT)


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaa", "x" * 257])
def test_passwords_that_are_none(password):
    """Too short, too long, all alike."""
    with pytest.raises(ConfigError, match="password"):
        hash_password(password)


def test_after_five_failures_even_the_right_password_is_refused(store):
    """And is heard again when the quarter of an hour is over; another name from elsewhere is not held up."""
    for _ in range(5):
        with pytest.raises(rooms.SignInRefused, match="do not fit"):
            rooms.sign_in(store, "ann", "wrong password", "here")
    with pytest.raises(rooms.SignInRefused, match="too many"):
        rooms.sign_in(store, "ann", PASSWORD, "elsewhere")
    assert rooms.sign_in(store, "root", PASSWORD, "there")
    assert [e.payload["failures"] for e in store.events("users")] == [5]
    with store.transaction() as transaction:
        transaction.execute(update(failures).values(time=failures.c.time - rooms.WINDOW_S - 1))
    assert rooms.sign_in(store, "ann", PASSWORD, "here")


def test_an_address_that_tries_many_names_is_refused(store):
    """Twenty failures over as many names; the loopback address, which a proxy's users share, is not counted."""
    for address in ("192.0.2.1", "127.0.0.1"):
        for n in range(20):
            with pytest.raises(rooms.SignInRefused, match="do not fit"):
                rooms.sign_in(store, f"name{address[-1]}{n}", "wrong password", address)
    with pytest.raises(rooms.SignInRefused, match="too many"):
        rooms.sign_in(store, "ann", PASSWORD, "192.0.2.1")
    assert rooms.sign_in(store, "ann", PASSWORD, "127.0.0.1")


def test_attempts_at_once_are_counted_each(store):
    """Twelve threads with wrong passwords: at most five are heard."""
    heard = []

    def go():
        try:
            rooms.sign_in(store, "ann", "wrong password", "here")
        except rooms.SignInRefused as refused:
            heard.append("fit" in refused.message)

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(heard), sum(heard)) == (12, 5)


def test_an_unknown_name_is_answered_like_a_wrong_password(store):
    """The same words."""
    said = set()
    for name in ("ann", "nobody"):
        with pytest.raises(rooms.SignInRefused) as refused:
            rooms.sign_in(store, name, "wrong password", "here")
        said.add((refused.value.message, refused.value.remedy))
    assert len(said) == 1


def test_many_good_sign_ins_never_lock(store):
    """Thirty from one address: a success takes its own attempt back."""
    for _ in range(30):
        rooms.sign_in(store, "ann", PASSWORD, "here")


@pytest.mark.parametrize("values", [{"expires": 0.0}, {"seen": 0.0}])
def test_a_session_that_is_over_or_idle_is_none(store, values):
    """Twelve hours at most, two without use."""
    cookie = rooms.sign_in(store, "ann", PASSWORD, "here")
    assert rooms.session_user(store, cookie).name == "ann"
    with store.transaction() as transaction:
        transaction.execute(update(sessions).values(**values))
    assert rooms.session_user(store, cookie) is None


def test_signing_out_a_new_password_and_being_disabled_end_sessions_and_tokens(store):
    """Each in its own way, at once."""
    cookie = rooms.sign_in(store, "ann", PASSWORD, "here")
    rooms.sign_out(store, cookie)
    assert rooms.session_user(store, cookie) is None
    cookie = rooms.sign_in(store, "ann", PASSWORD, "here")
    set_password(store, "ann", "another password", ROOT)
    assert rooms.session_user(store, cookie) is None
    cookie = rooms.sign_in(store, "ann", "another password", "here")
    token, _ = rooms.make_token(store, find_user(store, "ann"), "t", ["label"], 1)
    set_state(store, "ann", "disabled", ROOT, "left")
    assert rooms.session_user(store, cookie) is None
    assert rooms.token_user(store, token) is None
    with pytest.raises(rooms.SignInRefused):
        rooms.sign_in(store, "ann", "another password", "here")


def test_a_token_does_what_its_scopes_and_its_owners_roles_allow(store):
    """Never more than either; revoked or over, nothing."""
    set_roles(store, "ann", ["annotator", "approver"], ROOT)
    ann = find_user(store, "ann")
    token, info = rooms.make_token(store, ann, "t", ["label", "look"], 1)
    assert rooms.token_user(store, token).permissions == {"label", "look"}
    set_roles(store, "ann", ["annotator"], ROOT)
    assert rooms.token_user(store, token).permissions == {"label"}
    rooms.revoke_token(store, info.id, ROOT, None)
    assert rooms.token_user(store, token) is None
    with pytest.raises(ConfigError, match="no permission of yours"):
        rooms.make_token(store, find_user(store, "ann"), "t", ["decide"], 1)
    with pytest.raises(ConfigError, match="days"):
        rooms.make_token(store, find_user(store, "ann"), "t", ["label"], 91)


def test_nobody_revokes_anothers_token(store):
    """Except an admin, who passes no owner."""
    _, info = rooms.make_token(store, find_user(store, "root"), "t", ["users"], 1)
    with pytest.raises(ConfigError, match="no such token"):
        rooms.revoke_token(store, info.id, Actor("ann", "human"), "ann")
