"""What a directory holds, byte for byte: the manifest of a data version, and writing it safely.

DVC names a directory by MD5 and trusts its cache; this manifest holds SHA-256 sums of our own, which are
compared with the bytes whenever a version is verified or restored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from rlback.errors import DataError
from rlback.records import digest_of

_BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """One file: its path relative to the directory (with /), its size in bytes and the sums of its bytes."""

    path: str
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class Manifest:
    """The files of a directory, sorted by path."""

    files: tuple[File, ...]

    @cached_property
    def sha256(self) -> str:
        """The root digest: SHA-256 of the canonical JSON of all (path, size, sha256), in order."""
        return digest_of([[file.path, file.size, file.sha256] for file in self.files])

    @cached_property
    def listing(self) -> bytes:
        """The text that DVC 3 stores for a directory: MD5 and path of every file, sorted by path."""
        return json.dumps([{"md5": file.md5, "relpath": file.path} for file in self.files]).encode()

    @cached_property
    def md5(self) -> str:
        """DVC's name of the directory: the MD5 of its listing and `.dir`."""
        return hashlib.md5(self.listing, usedforsecurity=False).hexdigest() + ".dir"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def scan(directory: Path) -> Manifest:
    """Reads every file below a directory.

    Raises:
        DataError: it is not a directory, holds no file, or holds a symlink or something that is neither a
            file nor a directory.
    """
    if directory.is_symlink() or not directory.is_dir():
        raise DataError(f"{directory} is not a directory", remedy="name a directory, not a link or a file")
    files = sorted(_files(directory, ""), key=lambda file: file.path)
    if not files:
        raise DataError(f"{directory} holds no file", remedy="put the data there first")
    return Manifest(tuple(files))


def _files(directory: Path, prefix: str) -> Iterator[File]:
    with os.scandir(directory) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
            elif stat.S_ISREG(mode):
                # A file swapped for a link after the check above must not be followed either.
                handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                with os.fdopen(handle, "rb") as stream:
                    yield File(f"{prefix}{entry.name}", *_sums(stream))
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
                raise DataError(
                    f"{entry.path} is {kind}; a data version holds plain files only",
                    remedy="replace it with the file itself, or move it away",
                )


def _sums(stream: BinaryIO) -> tuple[int, str, str]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    while block := stream.read(_BLOCK):
        sha256.update(block)
        md5.update(block)
        size += len(block)
    return size, sha256.hexdigest(), md5.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, read block by block."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def compare(expected: Manifest, actual: Manifest, what: str, remedy: str) -> None:
    """Compares the files found with those expected; `what` names the place in the message.

    Raises:
        DataError: names the first file that is missing, altered or does not belong there.
    """
    want, have = ({file.path: file for file in manifest.files} for manifest in (expected, actual))
    for path in sorted({*want, *have}):
        if path not in have:
            problem = "is missing"
        elif path not in want:
            problem = "does not belong to this version"
        elif have[path].size != want[path].size:
            problem = f"has {have[path].size} bytes, the version has {want[path].size}"
        elif have[path].sha256 != want[path].sha256:
            problem = "has other bytes than the version (SHA-256 differs)"
        else:
            continue
        raise DataError(f"{what}: {path} {problem}", remedy=remedy)


def save(manifest: Manifest, path: Path) -> None:
    """Writes a manifest as JSON, atomically."""
    rows = [[file.path, file.size, file.sha256, file.md5] for file in manifest.files]
    text = json.dumps({"md5": manifest.md5, "sha256": manifest.sha256, "files": rows}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def load(path: Path) -> Manifest:
    """Reads what `save` wrote and checks it against its own two digests.

    Raises:
        DataError: the file is damaged or was altered.
    """
    try:
        text = json.loads(path.read_text())
        manifest = Manifest(tuple(File(*row) for row in text["files"]))
        whole = (manifest.sha256, manifest.md5) == (text["sha256"], text["md5"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest: {error}", remedy=_REMAKE) from None
    if not whole:
        raise DataError(f"{path} was altered: its files do not add up to its digest", remedy=_REMAKE)
    return manifest


_REMAKE = "restore it from a backup, or remove it and freeze the same data again"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that, whenever the process dies, either the old or the new content is there."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits for a lock file and holds it; the lock ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
