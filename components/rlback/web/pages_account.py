"""Setting up, signing in and out, one's own account, and the users."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from rlback.accounts import sessions as rooms
from rlback.accounts import users as people
from rlback.accounts.roles import ROLES
from rlback.errors import ConfigError
from rlback.web.answers import ASCIIJSON, done, page, set_cookie, wants_json
from rlback.web.refusals import Refused
from rlback.web.visit import SESSION_COOKIE, VISIT_COOKIE, Sent, visit_of

router = APIRouter()


@router.get("/setup", summary="With no users: the form for the first admin")
def setup_form(request: Request) -> Response:
    """Says that there are no users, and offers to make the first."""
    visit = visit_of(request)
    if people.count_users(visit.store):
        raise Refused(409, "there are users already", remedy="sign in, or ask an admin for an account")
    data = {"users": 0, "roles": list(ROLES), "code": request.query_params.get("code", "")[:40]}
    return page(request, "setup.html", "First admin", data)


@router.post("/setup", summary="Make the first admin")
def setup(request: Request, sent: Sent) -> Response:
    """Makes the first admin; takes the code that the terminal shows."""
    visit = visit_of(request)
    if not secrets.compare_digest(sent.one("code", most=100).encode(), visit.console.setup_code.encode()):
        raise Refused(403, "that is not the code the console printed at its start", remedy="look in the terminal it runs in")
    if sent.one("password") != sent.one("again", sent.one("password")):
        raise ConfigError("the two passwords differ", remedy="type the same one twice")
    user = people.add_user(
        visit.store, sent.one("name", most=200), sent.one("password"), {*sent.many("roles"), "admin"}, None, first=True
    )
    return done(request, {"user": user.name, "roles": user.roles}, "/sign-in", "user")


@router.get("/sign-in", summary="The form to sign in with")
def sign_in_form(request: Request) -> Response:
    """Name and password."""
    visit = visit_of(request)
    if not people.count_users(visit.store):
        return RedirectResponse("/setup", 303)
    if visit.user is not None:
        return RedirectResponse("/", 303)
    provider = visit.console.provider
    data = {"signed_in": False, "provider": provider.settings.label if provider else None}
    return page(request, "sign_in.html", "Sign in", data)


@router.post("/sign-in", summary="Open a session")
def sign_in(request: Request, sent: Sent) -> Response:
    """Opens a session; the cookie is new whatever was there before."""
    visit = visit_of(request)
    cookie = rooms.sign_in(visit.store, sent.one("name", most=200), sent.one("password"), _address(request))
    if visit.cookie:
        rooms.sign_out(visit.store, visit.cookie)
    if wants_json(request):
        response: Response = ASCIIJSON({"signed_in": True, "csrf": rooms.csrf_of(cookie)})
    else:
        response = RedirectResponse("/", 303)
    set_cookie(request, response, SESSION_COOKIE, cookie, rooms.SESSION_S)
    response.delete_cookie(VISIT_COOKIE, path="/", httponly=True, samesite="strict")
    return response


@router.post("/sign-out", summary="End the session")
def sign_out(request: Request, sent: Sent) -> Response:
    """Ends the session here and in the database."""
    visit = visit_of(request)
    rooms.sign_out(visit.store, visit.cookie)
    response = ASCIIJSON({"signed_in": False}) if wants_json(request) else RedirectResponse("/sign-in", 303)
    response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return response


def _address(request: Request) -> str:
    return (request.client.host if request.client else "?")[:64]


def _token(token: rooms.TokenInfo) -> dict[str, object]:
    from datetime import UTC, datetime

    until = datetime.fromtimestamp(token.expires, UTC).isoformat(timespec="minutes")
    return {
        "id": token.id, "user": token.user, "label": token.label, "scopes": list(token.scopes), "created": token.created,
        "expires": until, "revoked": token.revoked,
    }  # fmt: skip


@router.get("/account", summary="Your roles and API tokens")
def account(request: Request) -> Response:
    """Who you are here, and your tokens."""
    return _account_page(request, made="")


def _account_page(request: Request, made: str) -> Response:
    """`made` is a new token, shown this once."""
    visit = visit_of(request)
    user = visit.require()
    data = {
        "name": user.name, "roles": list(user.roles), "permissions": sorted(user.permissions),
        "tokens": [_token(t) for t in rooms.list_tokens(visit.store, user.name)], "made": made,
    }  # fmt: skip
    return page(request, "account.html", "Account", data)


@router.post("/account/tokens", summary="Make an API token")
def make_token(request: Request, sent: Sent) -> Response:
    """The token is in this answer and nowhere else."""
    visit = visit_of(request)
    user = visit.require()
    if visit.bearer:
        raise Refused(403, "a token makes no tokens", remedy="sign in")
    days = sent.one("days", "30", most=6)
    if not days.isdigit():
        raise ConfigError("days is no whole number", remedy=f"1 to {rooms.MOST_TOKEN_DAYS}")
    token, info = rooms.make_token(visit.store, user, sent.one("label", most=200), sent.many("scopes"), int(days))
    if wants_json(request):
        return ASCIIJSON({"token": token, **_token(info)})
    return _account_page(request, made=token)


@router.post("/account/tokens/{id_}/revoke", summary="Revoke an API token")
def revoke(request: Request, id_: str, sent: Sent) -> Response:
    """Ends a token of one's own; an admin ends anybody's."""
    visit = visit_of(request)
    user = visit.require()
    rooms.revoke_token(visit.store, id_, user.actor, None if visit.may("users") else user.name)
    return done(request, {"revoked": id_}, "/account", "token")


@router.post("/account/password", summary="Change your password")
def password(request: Request, sent: Sent) -> Response:
    """Takes the old one; ends every session, this one too."""
    visit = visit_of(request)
    user = visit.require()
    if visit.bearer:
        raise Refused(403, "a token changes no password", remedy="sign in")
    rooms.sign_out(visit.store, rooms.sign_in(visit.store, user.name, sent.one("old"), _address(request)))
    people.set_password(visit.store, user.name, sent.one("password"), user.actor)
    return done(request, {"changed": True}, "/sign-in", "password")


@router.get("/users", summary="Who has an account, and with which roles")
def users(request: Request) -> Response:
    """All accounts."""
    visit = visit_of(request)
    visit.require("users")
    listed = [
        {"name": u.name, "roles": list(u.roles), "state": u.state, "created": u.created} for u in people.list_users(visit.store)
    ]
    roles = [{"role": role, "permissions": sorted(may)} for role, may in ROLES.items()]
    return page(request, "users.html", "Users", {"users": listed, "roles": roles})


@router.post("/users", summary="Add a user")
def add(request: Request, sent: Sent) -> Response:
    """Adds an account with roles."""
    visit = visit_of(request)
    actor = visit.require("users").actor
    user = people.add_user(visit.store, sent.one("name", most=200), sent.one("password"), sent.many("roles"), actor)
    return done(request, {"user": user.name, "roles": user.roles}, "/users", "user")


@router.post("/users/{name}", summary="Give a user roles or a password, disable or enable them")
def change(request: Request, name: str, sent: Sent) -> Response:
    """`act` is roles, state or password."""
    visit = visit_of(request)
    actor, act = visit.require("users").actor, sent.one("act", most=20)
    if act == "roles":
        people.set_roles(visit.store, name, sent.many("roles"), actor)
    elif act == "state":
        people.set_state(visit.store, name, sent.one("state", most=20), actor, sent.one("reason"))
    elif act == "password":
        people.set_password(visit.store, name, sent.one("password"), actor)
    else:
        raise Refused(422, f"{act!r} is nothing that is done to a user", remedy="roles, state or password")
    found = people.find_user(visit.store, name)
    return done(request, {"user": found.name, "roles": found.roles, "state": found.state}, "/users", "user")
