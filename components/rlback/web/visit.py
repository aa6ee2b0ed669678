"""Who makes a request, what they may do, and what they sent."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request

from rlback.accounts.oidc import Provider
from rlback.accounts.sessions import csrf_of, session_user, token_user
from rlback.accounts.users import User, count_users
from rlback.ledger.console_tables import users as users_table
from rlback.ledger.store import Transaction
from rlback.project import Project
from rlback.web.refusals import Refused
from rlback.web.settings import Settings

SESSION_COOKIE = "rlback_session"
VISIT_COOKIE = "rlback_visit"
FIELDS = 100


@dataclass
class Console:
    """What the running console knows: its project, the code that makes the first admin, and whom to tell of news."""

    project: Project
    setup_code: str
    templates: Any
    provider: Provider | None = None
    settings: Settings = field(default_factory=Settings)
    kick: Callable[[], None] = lambda: None  # looks into the outbox at once

    @cached_property
    def root(self) -> Path:
        """Where this package lies."""
        return Path(__file__).parent


class Visit:
    """One request: its user (None before signing in), and the secret its forms are bound to."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.console: Console = request.app.state.console
        self.project = self.console.project
        self.store = self.project.store
        self.cookie = request.cookies.get(SESSION_COOKIE, "")
        self.bearer = _bearer(request)
        self.new_visit = ""
        held = self.cookie or request.cookies.get(VISIT_COOKIE, "")
        if not held and not self.bearer:
            held = self.new_visit = secrets.token_urlsafe(32)
        self._secret = held

    @cached_property
    def user(self) -> User | None:
        """The signed-in user, or the token's owner with what the token allows."""
        if self.bearer:
            return token_user(self.store, self.bearer)
        return session_user(self.store, self.cookie) if self.cookie else None

    @property
    def csrf(self) -> str:
        """The token of this visit's forms."""
        return csrf_of(self._secret)

    def require_csrf(self, sent: str) -> None:
        """Refuses what a page elsewhere could send; a bearer token does without."""
        if self.bearer:
            return
        if self.new_visit or not secrets.compare_digest(sent.encode("utf-8", "replace"), self.csrf.encode()):
            raise Refused(403, "the form does not belong to this visit", remedy="reload the page and send it again")

    def may(self, permission: str) -> bool:
        """Whether the user has a permission."""
        return self.user is not None and permission in self.user.permissions

    def require(self, *permissions: str) -> User:
        """The user, if one of these permissions is theirs (any signed-in user where none is named).

        Raises:
            Refused: 401 when nobody is signed in, 403 when it is somebody else's to do.
        """
        if self.user is None:
            if self.bearer:
                raise Refused(401, "the token is unknown, revoked or over", remedy="make another one on the account page")
            if not count_users(self.store):
                raise Refused(401, "there are no users yet", remedy="make the first admin at /setup")
            raise Refused(401, "nobody is signed in", remedy="sign in first")
        if permissions and not any(self.may(p) for p in permissions):
            raise Refused(403, f"{self.user.name} may not do this", remedy=f"it takes the permission {' or '.join(permissions)}")
        return self.user

    def still(self, permission: str) -> Any:
        """A check, to be made inside a transaction, that the user has the permission now."""
        name, scoped = self.require(permission).name, self.may(permission)

        def check(transaction: Transaction) -> None:
            from sqlalchemy import select

            from rlback.accounts.users import user_of

            row = transaction.execute(select(users_table).where(users_table.c.name == name)).first()
            if row is None or not scoped or permission not in user_of(row).permissions:
                raise Refused(403, f"{name} may not do this any more", remedy="ask an admin")

        return check


class Form:
    """The fields of a request's body, all text."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def one(self, name: str, default: str = "", *, most: int = 4_000) -> str:
        """One field; refused where it is longer than `most` characters or holds a NUL."""
        return _checked(name, self._fields.get(name, [default])[-1], most)

    def many(self, name: str, *, most: int = 4_000) -> list[str]:
        """Every value of a field, each as `one` takes it."""
        return [_checked(name, value, most) for value in self._fields.get(name, [])]


def _checked(name: str, value: str, most: int) -> str:
    if len(value) > most:
        raise Refused(422, f"the field {name} has at most {most} characters", remedy="shorten it")
    if "\x00" in value:
        raise Refused(422, f"the field {name} holds a NUL character", remedy="remove it")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise Refused(422, f"the field {name} holds half a surrogate pair, which is no character", remedy="remove it")
    return value


async def form(request: Request) -> Form:
    """Reads the body (a form or a JSON object) and checks the CSRF token, which a bearer token does without."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = _json_fields(body)
    elif kind == "application/x-www-form-urlencoded" or not body:
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
        except (UnicodeDecodeError, ValueError):
            raise Refused(422, "the form cannot be read as UTF-8 text", remedy="send it again") from None
    else:
        raise Refused(415, "the body is neither a form nor JSON", remedy="use application/json")
    visit = visit_of(request)
    visit.require_csrf(request.headers.get("x-csrf-token") or fields.get("csrf", [""])[-1])
    return Form(fields)


def visit_of(request: Request) -> Visit:
    """The visit of a request, one a request."""
    if not hasattr(request.state, "visit"):
        request.state.visit = Visit(request)
    visit: Visit = request.state.visit
    return visit


def _json_fields(body: bytes) -> dict[str, list[str]]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(422, "the body is no JSON", remedy="send one JSON object") from None
    if not isinstance(tree, dict) or len(tree) > FIELDS:
        raise Refused(422, "the body is no JSON object of fields", remedy="send one JSON object")
    fields: dict[str, list[str]] = {}
    for name, value in tree.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > FIELDS or not all(isinstance(v, str | int | float | type(None)) for v in values):
            raise Refused(422, f"the field {name[:40]} is neither text nor a list of texts", remedy="send text")
        fields[name] = [str(v) for v in values if v is not None]
        if not fields[name]:
            del fields[name]
    return fields


def _bearer(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


#: A handler's parameter of this kind is the body, read and checked.
Sent = Annotated[Form, Depends(form)]
