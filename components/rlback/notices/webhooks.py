"""Sending one signed message to one webhook, to public addresses only.

The host's name is resolved once; all addresses it has must be public, and the connection goes to one of those that
were looked at, so that a name cannot resolve to another address in between. Redirects are not followed: whoever
moved says so to the person who wrote the file.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from rlback import __version__
from rlback.errors import RlbackError
from rlback.notices.settings import Webhook

TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotDelivered(RlbackError):
    """A message did not arrive; `final` where another try cannot help."""

    def __init__(self, message: str, *, remedy: str | None = None, final: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.final = final


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever it is wrapped in."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [found for found in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if found is not None]
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and all(is_public(str(one)) for one in inner)


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 over `TIMESTAMP.BODY`, in hexadecimal: the time is part of it, so a recorded message grows old."""
    return hmac.new(secret, str(timestamp).encode() + b"." + body, hashlib.sha256).hexdigest()


def send(
    hook: Webhook, seq: int, body: bytes, *, permitted: Callable[[str], bool] = is_public, context: ssl.SSLContext | None = None
) -> None:
    """Posts one message; `seq` names it, the same on every try.

    Raises:
        NotDelivered: the address is not permitted, nothing answers, or the answer is not one of success.
    """
    parts = urlsplit(hook.url)
    host, port = parts.hostname or "", parts.port or 443
    address = _resolve(host, port, permitted)
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json", "user-agent": f"rlback/{__version__}", "x-rlback-delivery": str(seq),
        "x-rlback-timestamp": str(timestamp), "x-rlback-signature": f"v1={signature(hook.secret, timestamp, body)}",
    }  # fmt: skip
    connection = _Pinned(host, port, address, context or ssl.create_default_context())
    try:
        connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotDelivered(f"{hook.name}: {host} does not answer ({type(error).__name__}: {str(error)[:120]})") from None
    finally:
        connection.close()
    if 300 <= status < 400:
        raise NotDelivered(f"{hook.name}: {host} answers with a redirect ({status}), which is not followed", final=True)
    if not 200 <= status < 300:
        raise NotDelivered(f"{hook.name}: {host} answers {status}", final=status in (400, 401, 403, 404, 410))


def _resolve(host: str, port: int, permitted: Callable[[str], bool]) -> str:
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"the name {host[:80]} cannot be resolved ({type(error).__name__})") from None
    wrong = next((address for address in found if not permitted(address)), None)
    if wrong is not None or not found:
        raise NotDelivered(f"{host[:80]} is {wrong}, which is no public address: nothing is sent there", final=True)
    return found[0]


class _Pinned(http.client.HTTPSConnection):
    """Connects to the address that was looked at, and checks the certificate of the host's name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._address, self._tls = address, context

    def connect(self) -> None:
        raw = socket.create_connection((self._address, self.port), timeout=TIMEOUT_S)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)
