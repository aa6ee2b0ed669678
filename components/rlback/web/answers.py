"""A page and its JSON twin from one dict; errors likewise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlback import __version__
from rlback.evaluation.svg import number, percent
from rlback.web.plain import plain
from rlback.web.refusals import error_body
from rlback.web.visit import VISIT_COOKIE, visit_of

#: What a page may say after a form was sent; the address holds the key, never the text.
SAID = {
    "user": "The user is saved.",
    "password": "The password is changed; every session of that user has ended.",
    "token": "The token is revoked.",
    "approve": "Approved, and on record.",
    "decline": "Declined, and on record. The policy goes back when the campaign is carried on.",
    "more-labels": "More labels are asked for, and that is on record.",
    "label": "Saved.",
    "undone": "The last label is taken back.",
    "quarantined": "In quarantine, and on record. These labels stay, and nothing counts them.",
    "lifted": "The quarantine is lifted, and that is on record. The labels count again.",
    "rolled-back": "Rolled back, and on record.",
    "voted": "Your approval is on record; the gate waits for others.",
    "glass": "Approved alone, and on record where everybody sees it.",
    "deployed": "Deployed, and on record.",
    "withdrawn": "Out of service, and on record. Nothing is deployed now.",
    "started": "The flow run is started.",
    "campaign": "The campaign is on record, and its flow run is started.",
    "campaign-waits": "The campaign is on record. No flow run could be started; the page says how it is carried on.",
    "schedule": "The schedule is changed, and on record.",
    "cancelled": "The flow run is told to end.",
    "guideline": "The new version of the guideline is saved.",
}


def environment() -> Environment:
    """The templates: autoescaped, and strict about what they are given."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "plain": plain, "day": lambda t: str(t)[:16].replace("T", " "), "short": lambda d: str(d or "")[:12],
        "number": number, "percent": percent, "clock": lambda t: str(t)[11:19], "duration": _duration,
    }  # fmt: skip
    made.globals["version"] = __version__
    return made


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole % 60 or not whole:
        return f"{whole} seconds"
    return f"{whole // 60} minutes" if whole > 60 else "minute"


def wants_json(request: Request) -> bool:
    """Whether JSON is asked for before HTML."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept.partition("application/json")[0]


class ASCIIJSON(Response):
    """JSON in ASCII, so that half a surrogate pair in a stored text goes out as it is stored."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, default=_simple).encode("ascii")


def page(
    request: Request, template: str, title: str, data: Mapping[str, Any], *, status: int = 200, **extra: Any
) -> Response:
    """The page, or its data. `extra` is for the page alone (drawings)."""
    if wants_json(request):
        return ASCIIJSON(dict(data), status)
    visit = visit_of(request)
    said = SAID.get(request.query_params.get("said", ""))
    html = visit.console.templates.get_template(template).render(
        title=title, visit=visit, user=visit.user, csrf=visit.csrf, said=said, path=request.url.path,
        **data, **{key: Markup(value) for key, value in extra.items()},
    )  # fmt: skip
    response = HTMLResponse(html.encode("utf-8", "backslashreplace"), status)
    if visit.new_visit:
        set_cookie(request, response, VISIT_COOKIE, visit.new_visit, None)
    return response


def done(request: Request, data: Mapping[str, Any], where: str, said: str) -> Response:
    """After a form: the data as JSON, or back to a page of ours that says what was done."""
    if wants_json(request):
        return ASCIIJSON(dict(data))
    return RedirectResponse(f"{where}{'&' if '?' in where else '?'}said={said}", 303)


def error_page(request: Request, status: int, kind: str, message: str, remedy: str | None) -> Response:
    """An error as JSON or as a page; the page needs no database."""
    body = error_body(status, kind, message, remedy)
    headers = {"retry-after": "10"} if status in (429, 503) else {}
    if wants_json(request) or not request.headers.get("accept", "text/html").startswith(("text/html", "*/*")):
        return ASCIIJSON(body, status, headers)
    if request.headers.get("accept", "*/*").startswith("*/*"):
        return ASCIIJSON(body, status, headers)
    html = request.app.state.console.templates.get_template("error.html").render(title=f"{status}", **body)
    return HTMLResponse(html.encode("utf-8", "backslashreplace"), status, headers)


def set_cookie(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    """A cookie that scripts cannot read and other sites cannot send; over HTTPS only where the page came so."""
    https = request.headers.get("origin", request.url.scheme).startswith("https")
    response.set_cookie(name, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=https)


def _simple(value: Any) -> Any:
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, frozenset | set | tuple):
        return sorted(value)
    raise TypeError(type(value).__name__)
