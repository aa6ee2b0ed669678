"""Files that appear whole or not at all, and what is said and left behind when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlback.errors import RlbackError

#: How SQLite, safetensors and others word it; the last is SQLite's for some of its failures, on a disk that is nearly full.
_FULL = ("database or disk is full", "No space left on device", "Disk quota exceeded")
_PERHAPS_FULL = "disk I/O error"
#: Ends the name of a file that is being written, and of nothing else.
PART = ".part"


class NoRoom(OSError):
    """A full disk, or quota, kept a file from being written; `needed` are the bytes it was to have (None: not known)."""

    def __init__(self, path: str, needed: int | None) -> None:
        super().__init__(errno.ENOSPC, "No space left on device", path)
        self.needed = needed

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.filename, self.needed))


@dataclass(frozen=True)
class FullDisk:
    """What is known of a write that failed: the file ("" where no library said) and its size in bytes."""

    place: str
    needed: int | None = None

    @property
    def said(self) -> str:
        """For the end of a message: " (FILE could not be written, which takes N bytes)", or nothing."""
        size = "" if self.needed is None else f", which takes {self.needed:,} bytes"
        return f" ({self.place} could not be written{size})" if self.place else ""


def full_disk(error: BaseException, root: Path) -> FullDisk | None:
    """What could not be written if a full disk is behind an error, else None.

    Libraries wrap the system's error, and SQLite and safetensors word it anew, so the errors from which this
    one was raised are looked at too. SQLite calls some of its failures on a full disk I/O errors; then the free
    space at `root` decides.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        if isinstance(found, NoRoom):
            return FullDisk(str(found.filename), found.needed)
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT):
            return FullDisk(str(found.filename2 or found.filename or ""))
        if not isinstance(found, RlbackError | ValueError):
            text = str(found)
            if any(words in text for words in _FULL) or (_PERHAPS_FULL in text and shutil.disk_usage(root).free < 2**20):
                return FullDisk("")
        # `raise ... from None` says that what was behind it is no matter of ours: another machine's disk, say.
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


@contextmanager
def naming(path: Path, needed: int | None = None) -> Iterator[None]:
    """Names `path` in whatever is raised inside because the disk is full: what fails in a write does not say where."""
    try:
        yield
    except Exception as error:
        full = full_disk(error, path.parent)
        if full is None or isinstance(error, RlbackError | NoRoom):
            raise
        raise NoRoom(str(path), needed) from error


@contextmanager
def replacing(path: Path, needed: int | None = None, *, writer: object = "", durable: bool = True) -> Iterator[Path]:
    """A file beside `path` to write to; it takes the place of `path` at the end, and is gone when anything fails.

    A reader sees the old file or the new one, with `durable` also after a loss of power. One process at a time writes
    a file; where several may, `writer` tells them apart. What a killed process left is for the next one of the same
    name to overwrite, or for `sweep`.
    """
    beside = part_of(path, writer)
    try:
        with naming(path, needed):
            yield beside
            if durable:
                flush(beside)
            os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, *, writer: object = "", durable: bool = True) -> None:
    """Writes a file by `replacing` it. Raises NoRoom, an OSError, naming path and size when the disk is full."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data), writer=writer, durable=durable) as beside:
        beside.write_bytes(data)


def part_of(path: Path, writer: object = "") -> Path:
    """The hidden name beside `path` under which it is made."""
    return path.with_name(f".{path.name}{f'.{writer}' if writer else ''}{PART}")


def sweep(directory: Path) -> None:
    """Removes what killed processes left half-written below a directory in which nobody writes now."""
    for left in list(directory.rglob(f".*{PART}")):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
