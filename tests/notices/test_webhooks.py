"""Webhooks: signed, to public addresses only, no redirect followed, the secret nowhere to be read."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.server
import ipaddress
import ssl
import threading
from contextlib import contextmanager

import pytest

from rlback.errors import ConfigError
from rlback.notices.settings import Webhook, read_webhooks
from rlback.notices.webhooks import NotDelivered, is_public, send

SECRET = b"sixteen letters or more"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
     "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "255.255.255.255", "not an address"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_addresses_that_are(address):
    assert is_public(address)


@contextmanager
def receiver(tmp_path, status: int, **headers: str):
    """An HTTPS server on loopback with a certificate of its own; yields its address, what it got, and whom to trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, False).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "both.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            for k, v in headers.items():
                self.send_header(k, v)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}/hook?x=1", got, ssl.create_default_context(cafile=str(pem))
    finally:
        server.shutdown()


def anywhere(address: str) -> bool:
    return True


def test_what_arrives_can_be_verified_by_whoever_has_the_secret(tmp_path):
    """HMAC-SHA256 over time and body, and the delivery's number."""
    with receiver(tmp_path, 200) as (url, got, trust):
        send(Webhook("team", url, frozenset(), SECRET), 7, b'{"event": "x"}', permitted=anywhere, context=trust)
    path, headers, body = got[0]
    assert (path, body, headers["x-rlback-delivery"]) == ("/hook?x=1", b'{"event": "x"}', "7")
    mine = hmac.new(SECRET, headers["x-rlback-timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["x-rlback-signature"] == f"v1={mine}"


@pytest.mark.parametrize(("status", "final"), [(302, True), (307, True), (404, True), (503, False), (429, False)])
def test_redirects_are_not_followed_and_refusals_are_told_apart(tmp_path, status, final):
    with receiver(tmp_path, status, location="http://169.254.169.254/") as (url, got, trust):
        with pytest.raises(NotDelivered) as raised:
            send(Webhook("team", url, frozenset(), SECRET), 1, b"{}", permitted=anywhere, context=trust)
        assert raised.value.final is final
        assert len(got) == 1


def test_a_name_that_resolves_to_this_machine_is_refused_before_anything_is_sent(tmp_path):
    with receiver(tmp_path, 200) as (url, got, trust):
        with pytest.raises(NotDelivered, match="no public address"):
            send(Webhook("team", url, frozenset(), SECRET), 1, b"{}", context=trust)
        assert got == []


def test_the_secret_is_in_no_message_and_no_representation(tmp_path):
    """Whatever is wrong with the file, the secret is not quoted."""
    (tmp_path / "secret").write_bytes(SECRET)
    file = tmp_path / "notifications.yaml"
    good = "webhooks:\n- {name: team, url: 'https://a.example', secret_file: secret, events: [gate.opened]}\n"
    file.write_text(good)
    (hook,) = read_webhooks(tmp_path)
    assert SECRET.decode() not in repr(hook)
    for wrong in (
        good.replace("https:", "http:"), good.replace("gate.opened", "gate.opend"), good.replace("team", "prefect"),
        good.replace("secret_file: secret", "secret_file: elsewhere"), good.replace("name:", "nam:"), "[", good + good[10:],
    ):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(ConfigError) as raised:
            read_webhooks(tmp_path)
        assert SECRET.decode() not in raised.value.message
