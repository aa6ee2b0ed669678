"""What every request passes before anything else looks at it, and what every answer carries.

Host and Origin are checked against the names this console answers to (a page elsewhere can neither post here nor,
by pointing a name of its own at this address, read from here). Bodies are capped while they are read. Requests are
limited by client. `/page.json` is `/page` asked for as JSON.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rlback.web.refusals import Refused

BODY_BYTES = 64 * 1024
FILE_BYTES = 16 * 1024 * 1024  # of a file of labels; see `pages_quality.import_file`
READS = (240, 8.0)  # of one session or token: burst, and requests a second after it
WRITES = (60, 2.0)
PEOPLE = 200  # one address may as much as so many people, for an office or a proxy; see `settings.people_per_address`
CLIENTS = 4096  # buckets that are remembered

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would make browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Refuse = Callable[[Scope, Refused], Any]


class Buckets:
    """Token buckets, one a client; the least recently seen client is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._clock = clock

    def take(self, client: str, burst: int, rate: float) -> float:
        """0 where the request may go on, else the seconds to wait."""
        moment = self._clock()
        left, seen = self._held.pop(client, (float(burst), moment))
        left = min(float(burst), left + (moment - seen) * rate)
        wait = 0.0 if left >= 1 else (1 - left) / rate
        self._held[client] = (left - 1 if not wait else left, moment)
        if len(self._held) > CLIENTS:
            self._held.popitem(last=False)
        return wait


class Guard:
    """ASGI: checks a request, hands it on, adds headers to the answer. `refuse` makes an answer of a refusal."""

    def __init__(self, app: Any, hosts: frozenset[str], refuse: Refuse, people: int = PEOPLE) -> None:
        self.app = app
        self.hosts = hosts
        self.refuse = refuse
        self.people = people
        self.buckets = Buckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the console speaks HTTP only, not {scope['type']}")
        started = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                held = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in held]
                if b"cache-control" not in held:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            scope = self._checked(scope)
            await self.app(scope, _capped(receive, _most(scope)), answer)
        except Refused as refused:
            if started:
                raise
            await self.refuse(scope, refused)(scope, receive, answer)

    def _checked(self, scope: Scope) -> Scope:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in ("host", "origin", "content-length") and key in headers:
                raise Refused(400, f"the header {key} is there twice")
            headers[key] = value.decode("latin-1")
        if headers.get("host", "").lower() not in self.hosts:
            raise Refused(403, "this console does not answer to that host name", remedy="open it at the address it printed")
        bearer = "authorization" in headers
        writes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if writes:
            _check_origin(headers, self.hosts, bearer)
            most = _most(scope)
            if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > most:
                raise Refused(413, f"a request has at most {most // 1024} KiB here", remedy="send less at once")
        self._throttle((scope.get("client") or ("?",))[0], headers, writes)
        path = scope["path"]
        if path.endswith(".json") and path != "/openapi.json":
            kept = [(n, v) for n, v in scope["headers"] if n.lower() != b"accept"]
            path = path[: -len(".json")] or "/"
            path = "/" if path == "/index" else path
            scope = {**scope, "path": path, "raw_path": path.encode(), "headers": [*kept, (b"accept", b"application/json")]}
        return scope

    def _throttle(self, address: str, headers: dict[str, str], writes: bool) -> None:
        """Each session or token has an allowance. Made-up cookies do not help: all of an address together have one too."""
        kind, (burst, rate) = ("w", WRITES) if writes else ("r", READS)
        secret = headers.get("authorization", "") + headers.get("cookie", "")
        client = hashlib.sha256(secret.encode()).hexdigest()[:16] if secret else ""
        if wait := self.buckets.take(f"{address} {client} {kind}", burst, rate):
            raise Refused(429, "too many requests", remedy=f"wait {int(wait) + 1} seconds")
        if wait := self.buckets.take(f"{address} {kind} all", self.people * burst, self.people * rate):
            raise Refused(
                429, f"the address {address} sends more requests than {self.people} people would",
                remedy=f"wait {int(wait) + 1} seconds; where more people share it, raise people_per_address in console.yaml",
            )  # fmt: skip


def _check_origin(headers: dict[str, str], hosts: frozenset[str], bearer: bool) -> None:
    """A request that changes something comes from a page of ours; only a token may come without a page."""
    origin = headers.get("origin")
    if origin is None:
        if not bearer or "cookie" in headers:
            remedy = "use the console's own pages, or a token"
            raise Refused(403, "the request does not say which page it comes from", remedy=remedy)
        return
    scheme, _, host = origin.partition("://")
    if scheme not in ("http", "https") or host.lower() != headers["host"].lower() or host.lower() not in hosts:
        raise Refused(403, "the request comes from a page of another site", remedy="use the console's own pages")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refused(403, "the request comes from a page of another site", remedy="use the console's own pages")


def _most(scope: Scope) -> int:
    """A file of labels may be large; it is read only for who is signed in, which the handler sees to afterwards."""
    path = scope["path"].removesuffix(".json")
    return FILE_BYTES if path.startswith("/campaigns/") and path.endswith("/import") else BODY_BYTES


def _capped(receive: Receive, most: int) -> Receive:
    read = 0

    async def capped() -> MutableMapping[str, Any]:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise Refused(413, f"a request has at most {most // 1024} KiB here", remedy="send less at once")
        return message

    return capped
