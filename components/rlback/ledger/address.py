"""Which database a project's ledger is in: `RLBACK_DATABASE_URL`, else `database.yaml` in the project's directory,
else the SQLite file `.rlback/ledger.db`.

    url: postgresql://rlback@db.example.org:5432/rlback
    password_file: .rlback/database.password     # left out: libpq's own ways (PGPASSFILE, ~/.pgpass), or none is needed

A password may stand in the variable's URL, never in the file, which may be shown. Every program of a project asks here,
so that the command line, the console, the worker and the flow runs all write to the same database.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import URL, make_url

from rlback.config import read_tree
from rlback.errors import ConfigError

VARIABLE = "RLBACK_DATABASE_URL"
FILE = "database.yaml"
FORM = "postgresql://USER@HOST:PORT/DATABASE"
#: Parts of a URL's query that are as secret as a password.
_SECRET = ("password", "sslpassword")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=2000)]
    password_file: str | None = None


def read_address(root: Path) -> URL | None:
    """The database that a project is set to, or None for its SQLite file.

    Raises:
        ConfigError: what is set is no address of a database, or a file cannot be read; never quotes a password.
    """
    if url := os.environ.get(VARIABLE):
        return parsed(url, VARIABLE)
    path = root / FILE
    if not path.exists():
        return None
    try:
        said = _File.model_validate(read_tree(path, "database setting", "docs/database.md"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: `{where}`: {first['msg']}", remedy="see docs/database.md") from None
    address = parsed(said.url, str(path))
    if address.password is not None or any(key in address.query for key in _SECRET):
        raise ConfigError(f"{path}: the URL holds a password", remedy="put it into a file and name that: password_file")
    return address if said.password_file is None else address.set(password=_password(root, path, said.password_file))


def parsed(text: str, place: str) -> URL:
    """The address in a text; `place` is where it stands, for the error, which does not quote the text.

    Raises:
        ConfigError: it is no address, or that of another kind of database.
    """
    try:
        url = make_url(text)
    # The parser's own words quote what it was given, and a port that is none may be half of a password.
    except Exception:
        raise ConfigError(f"{place} holds no database URL", remedy=f"its form is {FORM}") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg", "sqlite", "sqlite+pysqlite"):
        raise ConfigError(
            f"{place} names a database {url.drivername[:40]}://…; the ledger is kept in PostgreSQL or SQLite",
            remedy=f"give {FORM}, or take the setting away for SQLite",
        )
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url


def shown(url: URL) -> str:
    """The address as it may be printed: a file's path, or a URL without password and query."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host")
    host = ",".join(host) if isinstance(host, tuple) else host
    return URL.create("postgresql", url.username, None, host, url.port, url.database).render_as_string()


def without_secrets(text: str, url: URL) -> str:
    """A text of somebody else's, an error of the driver for one, with the address's passwords taken out."""
    held = [url.password, *(url.query.get(key) for key in _SECRET)]
    for secret in held:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text


def _password(root: Path, path: Path, file: str) -> str:
    try:
        password = (root / file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: the password cannot be read from {root / file}") from None
    if not password:
        raise ConfigError(f"{path}: {root / file} holds no password", remedy="write it there, or leave password_file out")
    return password
