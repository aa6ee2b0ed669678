"""Streaming paragraphs of plain text, to train a language model on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlback.data.source import DEFAULT_LIMITS, Limits, open_source
from rlback.errors import DataError


def read_text(path: Path, *, max_bytes: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Yield the paragraphs of a UTF-8 text file (plain, gzip, xz or bzip2), as they are read.

    Blank lines part paragraphs; inside one, lines are joined by "\\n" and white space at the ends is dropped.
    With `max_bytes` the stream ends before the first paragraph that would take the UTF-8 bytes yielded past
    it, so a prefix of a large corpus costs only its own size.

    Raises `DataError`, while iterating, that names the line of bytes that are not UTF-8, of a NUL, or of a
    line or paragraph longer than `limits.max_line_bytes`; and where the file is missing, damaged, or without
    text.
    """
    given = 0
    some = False
    with open_source(path, limits) as source:
        for paragraph in _paragraphs(path, source.lines(), limits.max_line_bytes):
            some = True
            given += len(paragraph.encode())
            if max_bytes is not None and given > max_bytes:
                return
            yield paragraph
    if not some:
        raise DataError(f"{path} holds no text, only white space", remedy="check where the file came from")


def _paragraphs(path: Path, lines: Iterator[tuple[int, bytes]], cap: int) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for number, raw in lines:
        try:
            line = raw.decode().rstrip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 at byte {error.start + 1} of the line",
                remedy="re-encode the file as UTF-8",
            ) from error
        if "\0" in line:
            raise DataError(f"{path}, line {number}: holds a NUL character", remedy="give a text file")
        if line:
            size += len(raw)
            if size > cap:
                raise DataError(
                    f"{path}, line {number}: a paragraph of more than {cap:,} bytes",
                    remedy="part paragraphs by blank lines",
                )
            held.append(line)
        elif held:
            yield "\n".join(held).strip()
            held, size = [], 0
    if held:
        yield "\n".join(held).strip()
