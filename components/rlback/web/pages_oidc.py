"""Signing in through the provider that `oidc.yaml` names: there and back."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rlback.accounts import sessions as rooms
from rlback.accounts.identities import sign_in_as
from rlback.accounts.oidc import FLOW_S, Provider
from rlback.web.answers import set_cookie
from rlback.web.refusals import Refused
from rlback.web.visit import SESSION_COOKIE, Visit, visit_of

router = APIRouter()
FLOW_COOKIE = "rlback_oidc"
#: A cookie of SameSite=Strict is not sent where another site leads to; from this page of ours it is.
BACK = '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><title>Signed in</title><a href="/">Go on</a></html>'  # noqa: E501


@router.get("/oidc/start", summary="Begin to sign in at the OpenID Connect provider")
def start(request: Request) -> Response:
    """Sends the browser to the provider."""
    where, cookie = _provider(visit_of(request)).begin()
    response = RedirectResponse(where, 303)
    https = request.headers.get("x-forwarded-proto", request.url.scheme) == "https" or where.startswith("https")
    # Lax, since the provider's page leads back here; it opens nothing by itself.
    response.set_cookie(
        FLOW_COOKIE, cookie, max_age=int(FLOW_S), path="/oidc", httponly=True, samesite="lax",
        secure=https and request.url.hostname not in ("127.0.0.1", "localhost"),
    )  # fmt: skip
    return response


@router.get("/oidc/back", summary="Where the OpenID Connect provider leads back to")
def back(request: Request, code: str = "", state: str = "", iss: str = "", error: str = "") -> Response:
    """Opens a session for whoever the verified id token names."""
    visit = visit_of(request)
    provider = _provider(visit)
    answer = {k: v[:4000] for k, v in {"code": code, "state": state, "iss": iss, "error": error}.items() if v}
    who = provider.finish(request.cookies.get(FLOW_COOKIE, ""), answer)
    address = (request.client.host if request.client else "?")[:64]
    cookie = sign_in_as(visit.store, who, address, create=provider.settings.create)
    response = HTMLResponse(BACK)
    set_cookie(request, response, SESSION_COOKIE, cookie, rooms.SESSION_S)
    response.delete_cookie(FLOW_COOKIE, path="/oidc", httponly=True, samesite="lax")
    return response


def _provider(visit: Visit) -> Provider:
    if visit.console.provider is None:
        raise Refused(404, "there is no OpenID Connect provider here", remedy="sign in with name and password")
    return visit.console.provider
