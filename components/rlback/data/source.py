"""Opening a data file safely: regular files only, unpacked on the way, bounded, and named when damaged."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlback.errors import DataError


@dataclass(frozen=True)
class Limits:
    """What one file may ask of memory and time.

    `max_text_chars` bounds one prompt or completion in characters; `max_bytes` the unpacked file;
    `max_line_bytes` one line; `max_whole_bytes` what must be in memory at once (a JSON array, a Parquet
    batch); `max_rows` the lines or rows, blank ones included; `max_blank_lines` the blank lines one after the
    other: a few kilobytes unpack to hours of them.
    """

    max_text_chars: int = 200_000
    max_bytes: int = 4 * 2**30
    max_line_bytes: int = 16 * 2**20
    max_whole_bytes: int = 256 * 2**20
    max_rows: int = 10_000_000
    max_blank_lines: int = 100_000


DEFAULT_LIMITS = Limits()


_PACKED = {b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "packed with zstandard",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x80\x04": "a pickle, which is never loaded",
    b"ARROW1": "an Arrow file",
    b"version https://git-lfs": "a Git LFS pointer, not the data it stands for",
}
FORMATS_HINT = (
    "give JSON lines, a JSON array or CSV (plain, .gz, .xz or .bz2), or Parquet; "
    "text must be UTF-8 without NUL bytes"
)
_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


class Source:
    """A regular file opened once for reading, unpacked on the way and counted against `Limits`.

    `sha256` is of the file as it lies on disk, `packing` is "", "gz", "xz" or "bz2".
    """

    def __init__(self, path: Path, raw: io.BufferedReader, limits: Limits) -> None:
        self.path = path
        self.raw = raw
        self.limits = limits
        self.sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
        raw.seek(0)
        head = raw.read(32)
        raw.seek(0)
        self.packing = next((name for magic, name in _PACKED.items() if head.startswith(magic)), "")
        self._bytes = 0
        self._lines = 0
        self._blank = (0, 0)
        self._stream = io.BufferedReader(_unpacked(raw, self.packing), 1 << 16)
        self._refuse_foreign(self.peek())

    def _refuse_foreign(self, head: bytes) -> None:
        for magic, name in _FOREIGN.items():
            if head.startswith(magic):
                raise DataError(f"{self.path} is {name}", remedy=FORMATS_HINT)
        if self.packing and any(head.startswith(magic) for magic in _PACKED):
            raise DataError(f"{self.path} is packed twice", remedy="unpack it once")
        if not head:
            raise DataError(f"{self.path} is empty once unpacked", remedy="check where the file came from")

    def peek(self) -> bytes:
        """The first bytes, unpacked, without moving on: at least one, unless the file is empty."""
        with self._named_damage():
            return self._stream.peek(1)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number from 1, bytes) of each line, its end kept. Only "\\n" ends a line; a BOM is dropped."""
        cap = self.limits.max_line_bytes
        while True:
            with self._named_damage():
                line = self._stream.readline(cap + 1)
            if not line:
                return
            self._lines += 1
            self._count(len(line))
            if len(line) > cap:
                raise DataError(
                    f"{self.path}, line {self._lines}: longer than {cap:,} bytes",
                    remedy="write one row a line; a single huge line is not read",
                )
            if self._lines > self.limits.max_rows:
                raise DataError(
                    f"{self.path} has more than {self.limits.max_rows:,} lines", remedy="split the file"
                )
            self._count_blank(line)
            yield self._lines, line.removeprefix(b"\xef\xbb\xbf") if self._lines == 1 else line

    def whole(self) -> bytes:
        """All bytes, where they are at most `max_whole_bytes`."""
        cap = min(self.limits.max_whole_bytes, self.limits.max_bytes)
        with self._named_damage():
            data = self._stream.read(cap + 1)
        if len(data) > cap:
            raise DataError(
                f"{self.path}: a JSON array of more than {cap:,} bytes is not read whole",
                remedy="write it as JSON lines, one object a line",
            )
        return data.removeprefix(b"\xef\xbb\xbf")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self.limits.max_bytes:
            raise DataError(
                f"{self.path} unpacks to more than {self.limits.max_bytes:,} bytes",
                remedy="split the file, or raise Limits.max_bytes if you trust where it came from",
            )

    def _count_blank(self, line: bytes) -> None:
        lines, size = self._blank
        self._blank = (lines + 1, size + len(line)) if line.isspace() else (0, 0)
        if self._blank[0] > self.limits.max_blank_lines or self._blank[1] > self.limits.max_line_bytes:
            raise DataError(
                f"{self.path}, line {self._lines}: {self._blank[0]:,} blank lines ({self._blank[1]:,} bytes) one after the other",
                remedy="check where the file came from, or leave the blank lines out",
            )

    @contextmanager
    def _named_damage(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            what = f"the {self.packing} data are damaged or cut short" if self.packing else "reading failed"
            where = f"after line {self._lines}" if self._lines else "before its first line"
            raise DataError(
                f"{self.path}, {where}: {what} ({error})",
                remedy="fetch or make the file again",
            ) from error


def _unpacked(raw: io.BufferedReader, packing: str) -> Any:
    if packing == "gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    return {"xz": lzma.LZMAFile, "bz2": bz2.BZ2File}[packing](raw) if packing else raw


@contextmanager
def open_source(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a data file; `DataError` where it is missing, not a regular file, empty, of an unknown kind, or
    changed while it was read."""
    path = Path(path)
    try:
        # Looked at before opening: opening a pipe would wait for a writer.
        if stat.S_ISREG(os.stat(path).st_mode):
            raw = open(path, "rb")  # noqa: SIM115 - closed below, kept open so hash and rows are of one file
        elif path.is_dir():
            raise DataError(f"{path} is a directory, not a file", remedy="name one file in it")
        else:
            raise DataError(f"{path} is not a regular file", remedy="copy the data into a file first")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", remedy="check the path") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be opened: {error}", remedy="check the path and its permissions"
        ) from error
    with raw:
        before = os.fstat(raw.fileno())
        if before.st_size == 0:
            raise DataError(f"{path} is empty", remedy="check where the file came from")
        yield Source(path, raw, limits)
        after = os.fstat(raw.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(
                f"{path} changed while it was being read", remedy="read it again once it is at rest"
            )
