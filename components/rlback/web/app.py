"""The console as an ASGI application."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlback import __version__
from rlback.accounts.oidc import read_provider
from rlback.disks import full_disk
from rlback.errors import RlbackError
from rlback.project import Project
from rlback.web import (
    pages_account,
    pages_audit,
    pages_gate,
    pages_guideline,
    pages_home,
    pages_label,
    pages_ledger,
    pages_oidc,
    pages_practice,
    pages_quality,
    pages_release,
    pages_runs,
    pages_start,
    pages_timeline,
)
from rlback.web.answers import environment, error_page
from rlback.web.bodies import document
from rlback.web.guard import Guard
from rlback.web.refusals import Refused, status_of
from rlback.web.settings import read_settings
from rlback.web.visit import Console

ROOMS = (
    pages_home, pages_account, pages_label, pages_practice, pages_guideline, pages_gate, pages_timeline, pages_audit,
    pages_ledger, pages_quality, pages_runs, pages_start, pages_release, pages_oidc,
)  # fmt: skip
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def make_app(project: Project, *, port: int = 8700, names: tuple[str, ...] = (), setup_code: str = "") -> Guard:
    """The console of a project, answering to loopback names and `names` (hosts, with a port where it is not 80/443)."""
    app = FastAPI(
        title="Rollback RLHF console", version=__version__, docs_url=None, redoc_url=None,
        description="Every page is also JSON: ask for application/json, or put .json behind its path.",
    )  # fmt: skip
    settings = read_settings(project.root)
    code = setup_code or secrets.token_urlsafe(9)
    app.state.console = Console(project, code, environment(), read_provider(project.root), settings)
    for room in ROOMS:
        app.include_router(room.router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    app.mount("/static", StaticFiles(directory=app.state.console.root / "static"))
    app.add_exception_handler(RlbackError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(Exception, _unforeseen)
    hosts = {f"{name}:{port}" for name in LOOPBACK} | {name.lower() for name in names}
    guard = Guard(app, frozenset(hosts), lambda scope, refused: _refusal(app, scope, refused), settings.people_per_address)
    guard.openapi = app.openapi  # type: ignore[attr-defined]
    guard.console = app.state.console  # type: ignore[attr-defined]
    return guard


def _refusal(app: FastAPI, scope: Any, refused: Refused) -> Response:
    request = Request({**scope, "app": app})
    return error_page(request, refused.status, "Refused", refused.message, refused.remedy)


def _ours(request: Request, error: Any) -> Response:
    kind = type(error).__name__
    return error_page(request, status_of(error), kind, error.message, error.remedy)


def _http(request: Request, error: Any) -> Response:
    words = {404: f"there is no page {request.url.path[:80]}", 405: f"{request.method} is not answered here"}
    what = words.get(error.status_code, str(error.detail))
    return error_page(request, error.status_code, "Refused", what, "see the start page")


def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0] if error.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    return error_page(request, 422, "Refused", f"{where[:60]}: {first.get('msg', 'it is not as expected')}", None)


def _database(request: Request, error: Any) -> Response:
    """Another process held the database for longer than we wait, or the disk is full: nothing was saved."""
    why = str(error.orig)
    if "locked" not in why and "busy" not in why:
        return _unforeseen(request, error)
    return error_page(request, 503, "LedgerError", "the database is busy; nothing was saved", "try again in a moment")


def _unforeseen(request: Request, error: Exception) -> Response:
    root = request.app.state.console.project.root
    if (full := full_disk(error, root)) is not None:
        what = f"the disk is full{full.said}; nothing was saved"
        return error_page(request, 507, "StageError", what, "free some space, then do it again")
    return error_page(
        request, 500, type(error).__name__, "something went wrong in the console; nothing was saved",
        "the terminal it runs in has the details",
    )  # fmt: skip
