"""Who is told what: `notifications.yaml` in the project's directory.

    webhooks:
      - name: team
        url: https://chat.example.org/hooks/rlback
        secret_file: .rlback/team-hook.secret      # 16 characters or more; a file, so that this one can be shown
        events: [gate.opened, gate.overdue, gate.break-glass]     # left out: all of them
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlback.errors import ConfigError
from rlback.ledger.outbox import NOTIFIED, PREFECT

FILE = "notifications.yaml"
LEAST_SECRET = 16
LARGEST_BYTES = 100_000


class _Hook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    url: Annotated[str, Field(max_length=2000)]
    secret_file: str
    events: tuple[str, ...] = tuple(sorted(NOTIFIED))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    webhooks: tuple[_Hook, ...] = ()


@dataclass(frozen=True)
class Webhook:
    """One target; the secret is in no message, no log and no representation of this."""

    name: str
    url: str
    events: frozenset[str]
    secret: bytes = field(repr=False)


def read_webhooks(root: Path) -> list[Webhook]:
    """The webhooks of a project; [] where it has no such file.

    Raises:
        ConfigError: the file or a secret cannot be read, or does not hold what it should; never quotes a secret.
    """
    path = root / FILE
    if not path.exists():
        return []
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path} is no file of at most {LARGEST_BYTES} bytes", remedy="see docs/notifications.md")
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        parsed = _File.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({type(error).__name__})", remedy="see docs/notifications.md") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: `{where}`: {first['msg']}", remedy="see docs/notifications.md") from None
    names = [hook.name for hook in parsed.webhooks]
    if len(set(names)) < len(names) or PREFECT in names:
        raise ConfigError(f"{path}: names of webhooks are taken once each, and `{PREFECT}` is ours", remedy="rename one")
    return [_webhook(root, path, hook) for hook in parsed.webhooks]


def _webhook(root: Path, path: Path, hook: _Hook) -> Webhook:
    unknown = sorted(set(hook.events) - NOTIFIED)
    if unknown:
        known = ", ".join(sorted(NOTIFIED))
        raise ConfigError(f"{path}: {hook.name}: there is no event {unknown[0][:40]!r}", remedy=f"events: {known}")
    if not hook.url.startswith("https://"):
        raise ConfigError(f"{path}: {hook.name}: the address does not begin with https://", remedy="use one that does")
    file = root / hook.secret_file
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}: {hook.name}: its secret cannot be read from {file} ({error.strerror})") from None
    if len(secret) < LEAST_SECRET:
        what = f"{path}: {hook.name}: its secret has fewer than {LEAST_SECRET} characters"
        raise ConfigError(what, remedy="make one: openssl rand -hex 32")
    return Webhook(hook.name, hook.url, frozenset(hook.events), secret)
