"""Signing in, sessions and API tokens. What a cookie or token holds is never stored, only its SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from rlback.accounts.roles import check_scopes
from rlback.accounts.users import User, password_fits, user_of
from rlback.errors import ConfigError, RlbackError
from rlback.ledger.console_tables import failures, sessions, tokens, users
from rlback.ledger.store import Store, now
from rlback.records import SYSTEM, Actor

SESSION_S = 12 * 3600
IDLE_S = 2 * 3600
SEEN_EVERY_S = 60  # how often a session's last use is written down
FAILURES = 5
WINDOW_S = 15 * 60
MOST_TOKEN_DAYS = 90
TOKEN_PREFIX = "rlb_"


class SignInRefused(RlbackError):
    """Name and password do not fit, or there were too many attempts: never says which name exists."""

    exit_code = 6


@dataclass(frozen=True)
class TokenInfo:
    """A token as it may be shown: all but the token."""

    id: str
    user: str
    label: str
    scopes: tuple[str, ...]
    created: str
    expires: float
    revoked: bool


def sign_in(store: Store, name: str, password: str, address: str) -> str:
    """Opens a session and returns what its cookie is to hold.

    After five failures within a quarter of an hour a name is refused unheard until the quarter has passed, and so is
    an address after twenty. The attempt is counted before the password is looked at, so attempts at once gain nothing.

    Raises:
        SignInRefused: as above, or the password is wrong, or the account is disabled.
    """
    plain, moment = name.strip().lower(), time.time()
    keys = (f"name:{digest(plain)}", f"address:{address}")
    with store.transaction() as transaction:
        transaction.execute(delete(failures).where(failures.c.time < moment - WINDOW_S))
        counts = [
            transaction.execute(select(func.count()).select_from(failures).where(failures.c.key == key)).scalar_one()
            for key in keys
        ]
        # Behind a proxy everybody comes from one loopback address, which says nothing about who they are.
        shared = address.startswith(("127.", "::1"))
        locked = counts[0] >= FAILURES or (not shared and counts[1] >= 4 * FAILURES)
        if not locked:
            transaction.execute(insert(failures), [{"key": key, "time": moment} for key in keys])
            if counts[0] == FAILURES - 1:
                transaction.event("sign-in.throttled", "users", SYSTEM, {"address": address, "failures": FAILURES})
    if locked:
        raise SignInRefused("too many attempts to sign in", remedy="wait a quarter of an hour, or ask an admin")
    row = store.first(select(users).where(users.c.name == plain))
    if not password_fits(row, password) or row.state != "active":
        raise SignInRefused("name and password do not fit", remedy="try again; an admin can set another password")
    return open_session(store, plain, address, keys)


def open_session(store: Store, name: str, address: str, attempt: tuple[str, str] | None = None) -> str:
    """A session for somebody who has shown who they are; `attempt` are the keys that were counted for it."""
    cookie, moment = secrets.token_urlsafe(32), time.time()
    with store.transaction() as transaction:
        if attempt is not None:
            transaction.execute(delete(failures).where(failures.c.key == attempt[0]))
            newest = select(func.max(failures.c.id)).where(failures.c.key == attempt[1]).scalar_subquery()
            transaction.execute(delete(failures).where(failures.c.id == newest))  # the one this attempt counted as
        transaction.execute(delete(sessions).where(sessions.c.expires < moment))
        transaction.execute(
            insert(sessions).values(
                digest=digest(cookie), user=name, opened=moment, seen=moment, expires=moment + SESSION_S
            )
        )
        opened = {"user": name, "address": address, "session": digest(cookie), "until": moment + SESSION_S}
        transaction.event("session.opened", f"user:{name}", Actor(name, "human"), opened)
    return cookie


def session_user(store: Store, cookie: str) -> User | None:
    """The user of a session that is neither over nor idle for too long, with the roles as they are now."""
    moment = time.time()
    row = store.first(
        select(users, sessions.c.seen, sessions.c.digest)
        .join(sessions, sessions.c.user == users.c.name)
        .where(
            sessions.c.digest == digest(cookie), sessions.c.expires > moment, sessions.c.seen > moment - IDLE_S,
            users.c.state == "active",
        )
    )  # fmt: skip
    if row is None:
        return None
    if moment - row.seen > SEEN_EVERY_S:
        with store.transaction() as transaction:
            transaction.execute(update(sessions).where(sessions.c.digest == row.digest).values(seen=moment))
    return user_of(row)


def sign_out(store: Store, cookie: str) -> None:
    """Ends a session; one that is over already is no error."""
    with store.transaction() as transaction:
        row = transaction.execute(select(sessions.c.user).where(sessions.c.digest == digest(cookie))).first()
        if row is not None:
            transaction.execute(delete(sessions).where(sessions.c.digest == digest(cookie)))
            transaction.event("session.closed", f"user:{row.user}", Actor(row.user, "human"), {"user": row.user})


def make_token(store: Store, user: User, label: str, scopes: Iterable[str], days: int) -> tuple[str, TokenInfo]:
    """Makes an API token; returns it (it is shown this once) and what is kept of it.

    Raises:
        ConfigError: a scope the user has not, no label, or a life outside 1 to 90 days.
    """
    kept = check_scopes(scopes, user.permissions)
    if not 1 <= days <= MOST_TOKEN_DAYS:
        raise ConfigError(f"a token lives 1 to {MOST_TOKEN_DAYS} days", remedy="give another number of days")
    if not label.strip() or len(label) > 64 or not label.isprintable():
        raise ConfigError("a token needs a label of at most 64 printable characters", remedy="say what it is for")
    token, id_ = TOKEN_PREFIX + secrets.token_urlsafe(32), secrets.token_hex(6)
    until = time.time() + days * 86400
    with store.transaction() as transaction:
        transaction.execute(
            insert(tokens).values(
                id=id_, digest=digest(token), user=user.name, label=label.strip(), scopes=" ".join(kept),
                created=now(), expires=until, revoked=0,
            )
        )  # fmt: skip
        transaction.event(
            "token.made", f"user:{user.name}", user.actor,
            {"token": id_, "label": label.strip(), "scopes": list(kept), "days": days, "digest": digest(token), "until": until},
        )  # fmt: skip
    return token, next(t for t in list_tokens(store, user.name) if t.id == id_)


def token_user(store: Store, token: str) -> User | None:
    """The owner of a token that is neither revoked nor over, with no permission beyond the token's scopes."""
    row = store.first(
        select(users, tokens.c.scopes)
        .join(tokens, tokens.c.user == users.c.name)
        .where(
            tokens.c.digest == digest(token), tokens.c.revoked == 0, tokens.c.expires > time.time(),
            users.c.state == "active",
        )
    )  # fmt: skip
    if row is None:
        return None
    user = user_of(row)
    return replace(user, permissions=user.permissions & frozenset(row.scopes.split()))


def list_tokens(store: Store, user: str | None = None) -> list[TokenInfo]:
    """Tokens of one user, or of all, oldest first."""
    query = select(tokens).order_by(tokens.c.created, tokens.c.id)
    return [_token_info(row) for row in store.rows(query if user is None else query.where(tokens.c.user == user))]


def revoke_token(store: Store, id_: str, actor: Actor, owner: str | None) -> None:
    """Ends a token; `owner` None allows anybody's.

    Raises:
        ConfigError: there is no such token of that owner.
    """
    with store.transaction() as transaction:
        row = transaction.execute(select(tokens).where(tokens.c.id == id_)).first()
        if row is None or (owner is not None and row.user != owner):
            raise ConfigError("there is no such token", remedy="the account page lists yours", missing=True)
        transaction.execute(update(tokens).where(tokens.c.id == id_).values(revoked=1))
        transaction.event("token.revoked", f"user:{row.user}", actor, {"token": id_})


def digest(secret: str) -> str:
    """SHA-256 of a cookie or token of 256 random bits: no salt needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def csrf_of(cookie: str) -> str:
    """The token that every form of a session carries: it cannot be had without the cookie."""
    return hmac.new(cookie.encode("utf-8", "surrogatepass"), b"rlback csrf", hashlib.sha256).hexdigest()


def _token_info(row: Any) -> TokenInfo:
    return TokenInfo(
        row.id, row.user, row.label, tuple(row.scopes.split()), row.created, row.expires, bool(row.revoked)
    )
