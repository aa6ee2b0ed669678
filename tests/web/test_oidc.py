"""Signing in through an OpenID Connect provider: a small one on loopback, with real keys, that can be made to lie."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rlback.accounts.users import find_user, list_users, set_state
from rlback.errors import ConfigError
from rlback.records import Actor
from rlback.registry.verification import verify
from rlback.web.app import make_app
from tests.web.conftest import BASE, Browser

SECRET = "a client secret nobody prints"


class FakeProvider:
    """Authorisation is granted at once; `claims` and `lie` change what its token says and how it is signed."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid, self.url, self.codes = "k1", "", {}
        self.claims, self.lie, self.asked = {"sub": "s-1", "preferred_username": "eve"}, "", []

    def authorize(self, where: str) -> str:
        """What the person's browser would be led back with."""
        asked = {k: v[0] for k, v in parse_qs(urlsplit(where).query).items()}
        code = f"code{len(self.codes)}"
        self.codes[code] = asked
        return f"code={code}&state={asked['state']}"

    def token(self, form: dict, authorization: str) -> tuple[int, dict]:
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        basic = "Basic " + base64.b64encode(f"console:{SECRET}".replace(" ", "%20").encode()).decode()
        if asked is None or asked["code_challenge"] != challenge or authorization != basic:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.url, "aud": "console", "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.claims}
        key, headers, algorithm = self.key, {"kid": self.kid}, "RS256"
        if self.lie == "other key":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if self.lie == "no signature":
            return 200, {"id_token": jwt.encode(claims, None, algorithm="none", headers=headers)}
        if self.lie == "shared secret":
            key, algorithm = "k" * 64, "HS256"
        if self.lie == "unknown key":
            headers = {"kid": "k9"}
        return 200, {"id_token": jwt.encode(claims, key, algorithm=algorithm, headers=headers)}

    def answer(self, path: str, form: dict, authorization: str) -> tuple[int, dict]:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            return 200, {"issuer": self.url, **{name: f"{self.url}/{end}" for name, end in ends.items()}}
        if path == "/keys":
            kind = jwt.algorithms.ECAlgorithm if isinstance(self.key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
            return 200, {"keys": [{**json.loads(kind.to_jwk(self.key.public_key())), "kid": self.kid, "use": "sig"}]}
        return self.token(form, authorization)


@contextmanager
def serving():
    fake = FakeProvider()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            form = {k: v[0] for k, v in parse_qs(body).items()}
            status, content = fake.answer(self.path, form, self.headers.get("authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = _any

        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()


@pytest.fixture
def provider():
    with serving() as fake:
        yield fake


def configured(story, provider, **more):
    (story.root / "secret").write_text(SECRET + "\n")
    tree = {"issuer": provider.url, "client_id": "console", "client_secret_file": "secret", "redirect_uri": f"{BASE}/oidc/back"}
    (story.root / "oidc.yaml").write_text(json.dumps({**tree, **more}))
    return make_app(story)


def through(app, provider, change=lambda query: query):
    """There and back; the browser and the last answer."""
    browser = Browser(app, base_url=BASE, raise_server_exceptions=False)
    there = browser.get("/oidc/start", follow_redirects=False)
    assert there.status_code == 303, there.text
    query = change(provider.authorize(there.headers["location"]))
    return browser, browser.get(f"/oidc/back?{query}", headers={"accept": "application/json"})


def test_an_existing_user_is_signed_in_and_tied_to_the_subject(story, provider):
    """With their roles; what is asked of the provider carries PKCE, state and nonce."""
    app = configured(story, provider)
    page = Browser(app, base_url=BASE).get("/sign-in", headers={"accept": "text/html"}).text
    assert 'href="/oidc/start"' in page
    browser, answer = through(app, provider)
    assert answer.status_code == 200, answer.text
    assert "refresh" in answer.text
    assert browser.twin("/account")["roles"] == ["approver"]
    tied = next(e for e in story.store.events("user:eve") if e.kind == "user.tied")
    assert tied.payload["subject"] == "s-1"
    assert verify(story, None).holds
    assert SECRET not in repr(app.console.provider)


def test_the_subject_decides_afterwards_and_no_second_one_gets_in(story, provider):
    """The same subject under another name is the same person; another subject with her name is refused."""
    app = configured(story, provider)
    through(app, provider)
    provider.claims = {"sub": "s-1", "preferred_username": "root"}
    browser, _ = through(app, provider)
    assert browser.twin("/account")["name"] == "eve"
    provider.claims = {"sub": "s-2", "preferred_username": "eve"}
    _, answer = through(app, provider)
    assert answer.status_code == 403
    assert "another person" in answer.json()["error"]["message"]


@pytest.mark.parametrize("create", [False, True])
def test_somebody_unknown_gets_an_account_without_roles_or_none(story, provider, create):
    provider.claims = {"sub": "s-9", "preferred_username": "zoe"}
    before = len(list_users(story.store))
    browser, answer = through(configured(story, provider, create=create), provider)
    if not create:
        assert (answer.status_code, len(list_users(story.store))) == (403, before)
        return
    assert answer.status_code == 200
    assert find_user(story.store, "zoe").permissions == frozenset()
    assert browser.get("/ledger", headers={"accept": "application/json"}).status_code == 403
    assert verify(story, None).holds


@pytest.mark.parametrize("lie", ["other key", "no signature", "shared secret", "unknown key"])
def test_a_token_that_the_provider_did_not_sign_opens_nothing(story, provider, lie):
    provider.lie = lie
    browser, answer = through(configured(story, provider), provider)
    assert answer.status_code == 403
    assert browser.get("/account", headers={"accept": "application/json"}).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [{"aud": "another"}, {"iss": "https://elsewhere.example"}, {"exp": 1}, {"nonce": "of another"}, {"azp": "another"},
     {"aud": ["console", "another"]}, {"preferred_username": None}, {"preferred_username": "ｅve"},
     {"preferred_username": "eve@elsewhere.example"}],
)  # fmt: skip
def test_a_token_for_another_client_time_or_name_opens_nothing(story, provider, claims):
    provider.claims |= claims
    _, answer = through(configured(story, provider), provider)
    assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    "change",
    [lambda q: q.replace("state=", "state=x"), lambda q: q.partition("&")[2], lambda q: q + "&iss=https://elsewhere.example",
     lambda q: q.replace("code=", "error=access_denied&code=")],
)  # fmt: skip
def test_an_answer_that_was_not_asked_for_opens_nothing(story, provider, change):
    _, answer = through(configured(story, provider), provider, change)
    assert answer.status_code == 403


def test_an_answer_counts_once_and_in_its_own_browser(story, provider):
    app = configured(story, provider)
    browser = Browser(app, base_url=BASE)
    query = provider.authorize(browser.get("/oidc/start", follow_redirects=False).headers["location"])
    stranger = Browser(app, base_url=BASE)
    assert stranger.get(f"/oidc/back?{query}").status_code == 403
    assert browser.get(f"/oidc/back?{query}").status_code == 200
    assert browser.get(f"/oidc/back?{query}").status_code == 403


def test_keys_may_be_replaced_and_a_disabled_account_stays_out(story, provider):
    """A new key is asked for once where it is not known; then eve is disabled."""
    app = configured(story, provider)
    through(app, provider)
    provider.key, provider.kid = rsa.generate_private_key(public_exponent=65537, key_size=2048), "k2"
    _, answer = through(app, provider)
    assert answer.status_code == 200
    set_state(story.store, "eve", "disabled", Actor("root", "human"), "left")
    _, answer = through(app, provider)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "wrong", [{"issuer": "http://id.example.org"}, {"redirect_uri": "ftp://x"}, {"isuer": "x"}, {"client_id": ""}]
)
def test_a_wrong_configuration_is_named_without_the_secret(story, provider, wrong):
    with pytest.raises(ConfigError) as raised:
        configured(story, provider, **wrong)
    assert SECRET not in raised.value.message
