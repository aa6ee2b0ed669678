"""Signing in through an OpenID Connect provider, by configuration: authorization code with PKCE, nothing else.

`oidc.yaml` in the project's directory:

    issuer: https://id.example.org            # https, or http on this machine
    client_id: rlback
    client_secret_file: .rlback/oidc.secret   # left out for a public client
    redirect_uri: https://labels.example.org/oidc/back
    name_claim: preferred_username            # which claim names the user; `email` must be verified
    email_domain: example.org                 # names with an @ are taken of this domain alone, and without it
    create: false                             # whether somebody unknown gets an account, without any role

The first sign-in ties an account to (issuer, subject); from then on the subject decides, whatever the name claim says,
and no second subject gets into the same account. Sources: OpenID Connect Core 1.0 (sections 3.1.2, 3.1.3.7),
RFC 7636 (PKCE, S256), RFC 9207 (the `iss` parameter of the answer).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlback.accounts.sessions import SignInRefused
from rlback.errors import ConfigError

FILE = "oidc.yaml"
#: Signatures by a key pair only: with a shared secret whoever verifies could also sign.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_S = 60
FLOW_S = 600.0
FLOWS = 1000
LARGEST_ANSWER = 1_000_000
TIMEOUT_S = 10.0
KEPT_S = 3600.0


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(max_length=500)]
    client_id: Annotated[str, Field(min_length=1, max_length=200)]
    client_secret_file: str | None = None
    redirect_uri: Annotated[str, Field(max_length=500)]
    name_claim: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")] = "preferred_username"
    email_domain: Annotated[str, Field(max_length=200)] | None = None
    create: bool = False
    label: Annotated[str, Field(max_length=60)] = "Sign in with your organisation"


@dataclass(frozen=True)
class Flow:
    """What a browser that was sent to the provider must come back with."""

    state: str
    nonce: str
    verifier: str
    until: float


@dataclass(frozen=True)
class Identity:
    """Who the provider says this is."""

    issuer: str
    subject: str
    name: str


@dataclass
class Provider:
    """One provider, with what it has told about itself. The secret is in no representation of it."""

    settings: _File
    secret: str | None = field(repr=False)
    _told: dict[str, tuple[float, Any]] = field(default_factory=dict, repr=False)
    _flows: dict[str, Flow] = field(default_factory=dict, repr=False)

    def begin(self) -> tuple[str, str]:
        """Where to send a browser, and what its cookie is to hold meanwhile.

        Raises:
            SignInRefused: the provider does not answer, or not as it should.
        """
        where = self._discovered()["authorization_endpoint"]
        flow = Flow(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48), time.time() + FLOW_S)
        cookie = secrets.token_urlsafe(32)
        self._flows = {k: f for k, f in list(self._flows.items())[-FLOWS:] if f.until > time.time()}
        self._flows[_digest(cookie)] = flow
        challenge = base64.urlsafe_b64encode(hashlib.sha256(flow.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "scope": "openid profile email", "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_uri, "state": flow.state, "nonce": flow.nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", cookie

    def finish(self, cookie: str, answer: dict[str, str]) -> Identity:
        """Who came back, by a verified id token; a flow is finished once.

        Raises:
            SignInRefused: the answer belongs to no flow of this browser, or the provider or its token is not right.
        """
        flow = self._flows.pop(_digest(cookie), None)
        if flow is None or flow.until < time.time() or not hmac.compare_digest(flow.state, answer.get("state", "")):
            raise SignInRefused("this sign-in was not begun here, or took too long", remedy="begin again")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise SignInRefused("the answer comes from another provider", remedy="begin again")
        if "error" in answer or not answer.get("code"):
            why = answer.get("error", "no code")[:80]
            raise SignInRefused(f"the provider refused: {why}", remedy="begin again, or ask an admin")
        sent = {
            "grant_type": "authorization_code", "code": answer["code"], "redirect_uri": self.settings.redirect_uri,
            "client_id": self.settings.client_id, "code_verifier": flow.verifier,
        }  # fmt: skip
        token = self._ask(self._discovered()["token_endpoint"], sent).get("id_token")
        if not isinstance(token, str):
            raise SignInRefused("the provider sent no id token", remedy="ask an admin")
        return self._identity(self._verified(token), flow.nonce)

    def _verified(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise SignInRefused("the id token is not signed by a key pair", remedy="ask an admin")
            return dict(
                jwt.decode(
                    token, self._key(header), algorithms=[header["alg"]], audience=self.settings.client_id,
                    issuer=self.settings.issuer, leeway=LEEWAY_S,
                    options={"require": ["exp", "iat", "iss", "aud", "sub"]},
                )
            )  # fmt: skip
        except jwt.PyJWTError as error:
            what = f"the id token does not verify ({type(error).__name__})"
            raise SignInRefused(what, remedy="begin again, or ask an admin") from None

    def _identity(self, claims: dict[str, Any], nonce: str) -> Identity:
        if not hmac.compare_digest(str(claims.get("nonce", "")), nonce):
            raise SignInRefused("the id token is for another sign-in", remedy="begin again")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", self.settings.client_id if not several else None) != self.settings.client_id:
            raise SignInRefused("the id token is for another client", remedy="ask an admin")
        name = claims.get(self.settings.name_claim)
        if self.settings.name_claim == "email" and claims.get("email_verified") is not True:
            raise SignInRefused("the provider has not verified the e-mail address", remedy="verify it there")
        if not isinstance(name, str) or not name.strip():
            raise SignInRefused(f"the id token has no claim {self.settings.name_claim}", remedy="ask an admin")
        # A name of another domain, or one that only looks like another in other letters, is another person's.
        local, at, domain = name.partition("@")
        if not name.isascii() or (at and domain.lower() != (self.settings.email_domain or "").lower()):
            raise SignInRefused("the provider's name for you is none for an account here", remedy="ask an admin")
        return Identity(self.settings.issuer, str(claims["sub"]), local)

    def _key(self, header: dict[str, Any]) -> Any:
        """The key the token names; asked for anew once where it is not among those known."""
        import jwt

        for fresh in (False, True):
            for held in self._read(self._discovered()["jwks_uri"], fresh=fresh).get("keys", []):
                fits = held.get("kid") == header.get("kid") and held.get("use", "sig") == "sig" and held.get("kty") != "oct"
                if fits and held.get("alg", header["alg"]) == header["alg"]:
                    return jwt.PyJWK(held, algorithm=header["alg"]).key
        raise SignInRefused("the id token is signed with a key the provider does not publish", remedy="ask an admin")

    def _discovered(self) -> dict[str, str]:
        found = self._read(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.settings.issuer:
            raise SignInRefused("the provider calls itself by another name", remedy=f"correct issuer in {FILE}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(str(found.get(name, ""))):
                raise SignInRefused(f"the provider's {name} is no https address", remedy="ask an admin")
        return {k: v for k, v in found.items() if isinstance(v, str)}

    def _read(self, url: str, *, fresh: bool = False) -> dict[str, Any]:
        held = self._told.get(url)
        if held is None or fresh or held[0] < time.time():
            held = self._told[url] = (time.time() + KEPT_S, self._ask(url, None))
        return dict(held[1])

    def _ask(self, url: str, form: dict[str, str] | None) -> dict[str, Any]:
        headers = {"accept": "application/json"}
        if form is not None and self.secret is not None:
            pair = f"{urllib.parse.quote(self.settings.client_id, safe='')}:{urllib.parse.quote(self.secret, safe='')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        request = urllib.request.Request(url, data=urlencode(form).encode() if form is not None else None, headers=headers)
        try:
            with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
                found = json.loads(answer.read(LARGEST_ANSWER))
        except (OSError, ValueError, RecursionError) as error:
            what = f"the provider at {urlsplit(url).hostname} does not answer as it should ({type(error).__name__})"
            raise SignInRefused(what, remedy="try again later") from None
        if not isinstance(found, dict):
            raise SignInRefused("the provider's answer is no JSON object", remedy="ask an admin")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def read_provider(root: Path) -> Provider | None:
    """The provider a project is configured with, or None.

    Raises:
        ConfigError: the file or the secret cannot be read, or does not hold what it should; never quotes a secret.
    """
    path = root / FILE
    if not path.exists():
        return None
    try:
        settings = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({type(error).__name__})") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ConfigError(f"{path}: `{'.'.join(str(p) for p in first['loc'])}`: {first['msg']}") from None
    for name in ("issuer", "redirect_uri"):
        if not _is_safe(getattr(settings, name)):
            raise ConfigError(f"{path}: `{name}` is no https address", remedy="http is for this machine only (127.0.0.1)")
    if settings.client_secret_file is None:
        return Provider(settings, None)
    try:
        return Provider(settings, (root / settings.client_secret_file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: the client secret cannot be read from {root / settings.client_secret_file}") from None


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return (parts.scheme == "https" and bool(parts.hostname)) or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    )


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
