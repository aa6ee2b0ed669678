"""What MLflow accepts and where its files go: names, keys, texts, addresses. Without importing it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rlback.disks import flush, naming, part_of
from rlback.errors import CheckpointError, ConfigError, RegistryError
from rlback.models.manifest import verify_checkpoint

_NAME = re.compile(r"(?!(?:latest|v\d+)\Z)[A-Za-z0-9_-]{1,200}\Z", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z0-9_./:@=+-]{1,200}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST_VALUE = 5000  # MLflow stores 6000 characters of a param and 8000 of a tag
_LONGEST_KEY = 250


def check_name(what: str, name: str) -> None:
    """Refuses (ConfigError) what cannot name a policy, alias, experiment or checkpoint."""
    if not _NAME.match(name):
        raise ConfigError(
            f"{name!r} cannot be the name of {what}",
            remedy="use letters, digits, _ and -, at most 200; `latest`, v1, v2 and so on are reserved",
        )


def check_key(key: str) -> None:
    """Refuses (RegistryError) a key that could not be looked up again."""
    if not _KEY.match(key):
        raise RegistryError(
            f"{key!r} cannot be a key", remedy="use letters, digits and _./:@=+-, at most 200"
        )


def check_digest(digest: str) -> None:
    """Refuses (CheckpointError) what is not 64 hex digits in lower case."""
    if not _DIGEST.match(digest):
        raise CheckpointError(f"{digest!r} is not a root digest", remedy="it has 64 digits from 0-9 and a-f")


def tracking_uri(root: Path) -> str:
    """The database of the project, unless MLFLOW_TRACKING_URI names another database or a server.

    Raises:
        ConfigError: it names anything else, such as a directory, which MLflow 3 no longer supports.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"
    scheme = urlparse(uri).scheme
    if scheme in ("http", "https") or scheme.split("+")[0] in ("postgresql", "mysql", "mssql"):
        return uri
    path = uri.removeprefix("sqlite:///")
    if scheme != "sqlite" or path == uri or not path or path.startswith(":") or set("?#%") & set(path):
        raise ConfigError(
            f"the MLflow address {uri!r} cannot be used",
            remedy="set MLFLOW_TRACKING_URI to sqlite:///FILE (a path without ?, # and %), to a "
            "postgresql+psycopg:// database or an http:// server, or unset it",
        )
    return f"sqlite:///{root / path}"


def is_local(stored: str) -> bool:
    """Whether an artifact location is a directory and not an object store."""
    return urlparse(stored).scheme in ("", "file")


def below_artifacts(stored: str, model_id: str) -> Path:
    """The path below the artifact directory of a checkpoint whose place MLflow stored as an absolute one.

    Raises:
        RegistryError: it is not the place of that checkpoint.
    """
    parts = Path(unquote(urlparse(stored).path)).parts[-4:]
    if parts[1:] != ("models", model_id, "artifacts") or not re.fullmatch(r"[A-Za-z0-9_-]+", parts[0]):
        raise RegistryError(
            f"MLflow names {stored!r} as the place of {model_id}, where no checkpoint is kept",
            remedy="somebody changed MLflow's database: bring it back from a backup",
        )
    return Path(*parts)


def texts(values: Mapping[str, Any] | None, **own: object) -> dict[str, str]:
    """Params or tags as MLflow takes them; `own` wins over `values`."""
    return {short_key(key): short(value) for key, value in {**(values or {}), **own}.items()}


def short(value: object) -> str:
    """A value as text; one too long is cut and ends in the SHA-256 of the whole."""
    structured = isinstance(value, (Mapping, list, tuple))
    text = json.dumps(value, sort_keys=True, default=str) if structured else str(value)
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[:_LONGEST_VALUE]}… sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def short_key(key: str) -> str:
    """A key with every character that MLflow refuses as _, and cut like a value."""
    clean = re.sub(r"[^\w./: -]", "_", key).strip("/.") or "_"
    clean = re.sub(r"/[./]*/|/(?=\.)", "/", clean)
    if len(clean) <= _LONGEST_KEY:
        return clean
    return f"{clean[: _LONGEST_KEY - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def place(source: Path, target: Path, digest: str, kind: str, *, link: bool) -> None:
    """Puts the files of a checkpoint directory in their place, which appears once every byte is verified.

    What a killed process left in place is kept when it verifies and made anew otherwise. The files become
    read-only and are flushed to the disk. `link` shares them with the source instead of copying them: for
    sources that nobody writes to again.

    Raises:
        CheckpointError: the source is not what its manifest, digest and kind say.
    """
    if target.is_dir():
        try:
            verify_checkpoint(target, digest)
        except CheckpointError:
            shutil.rmtree(target)
    if not target.is_dir():
        part = part_of(target)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with naming(target, sum(file.stat().st_size for file in source.glob("*"))):
                _copy_files(source, part, link)
            manifest = verify_checkpoint(part, digest)
            if manifest.kind != kind:
                raise CheckpointError(
                    f"{source} holds a {manifest.kind}, not a {kind}", remedy="check the reference"
                )
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        os.rename(part, target)
    # A loss of power before this point leaves a checkpoint that is not READY and is verified again.
    for path in (*target.iterdir(), target, target.parent):
        flush(path)


def _copy_files(source: Path, target: Path, link: bool) -> None:
    if not source.is_dir():
        raise CheckpointError(f"there is no checkpoint at {source}", remedy="check the path")
    for entry in os.scandir(source):
        if not entry.is_file(follow_symlinks=False):
            raise CheckpointError(
                f"checkpoint {source}: {entry.name} is not a plain file", remedy="save the checkpoint again"
            )
        copy = target / entry.name
        try:
            if not link:
                raise OSError
            os.link(entry.path, copy, follow_symlinks=False)
        except OSError:  # not wanted, or another file system
            shutil.copyfile(entry.path, copy, follow_symlinks=False)
        copy.chmod(0o444)
