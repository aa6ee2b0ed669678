"""Paragraphs of text files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlback.data.source import Limits
from rlback.data.text import read_text
from rlback.errors import DataError


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_blank_lines_part_paragraphs(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Byte order mark, CR LF and lines of white space do not end up in paragraphs."""
    path = tmp_path / "f"
    path.write_bytes(pack("\ufeff\n One\r\ntwo\r\n \t\r\n\n\nthrée\n".encode()))
    assert list(read_text(path)) == ["One\ntwo", "thrée"]


def test_the_cap_is_on_one_paragraph(tmp_path: Path) -> None:
    """Any number of paragraphs below the cap may follow each other."""
    path = tmp_path / "f"
    path.write_bytes(b"0123456789\n\n" * 30)
    assert list(read_text(path, limits=Limits(max_line_bytes=20))) == ["0123456789"] * 30


def test_max_bytes_keeps_whole_paragraphs_and_reads_no_further(tmp_path: Path) -> None:
    """Of 3, 3 and 4 bytes a budget of 6 or 9 gives the first two; damage behind them is never reached."""
    path = tmp_path / "f"
    path.write_bytes("abc\n\nxé\n\nlast\n\n".encode() + b"\xff\n")
    assert list(read_text(path, max_bytes=6)) == ["abc", "xé"]
    assert list(read_text(path, max_bytes=9)) == ["abc", "xé"]
    assert list(read_text(path, max_bytes=5)) == ["abc"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"fine\n\nbad \xe9 byte", "line 3: not UTF-8 at byte 5"),
        (b"a\n\0b", "line 2: holds a NUL"),
        (b"", "is empty"),
        (b" \n\n ", "holds no text"),
        (gzip.compress(b"some text " * 50, mtime=0)[:-5], "cut short"),
        (b"0123456789" * 20, "line 1: longer than 100 bytes"),
        (b"0123456789\n" * 20, "line 10: a paragraph of more than 100 bytes"),
        (b"PK\x03\x04", "is a zip archive"),
    ],
)
def test_bad_text(tmp_path: Path, data: bytes, words: str) -> None:
    """Bytes that are no text are named with their line."""
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        list(read_text(path, limits=Limits(max_line_bytes=100)))
    assert str(path) in caught.value.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.sampled_from("ab é,.\u2028"), min_size=1).map(str.strip).filter(bool), min_size=1))
def test_written_paragraphs_are_read_again(tmp_path: Path, paragraphs: list[str]) -> None:
    """Paragraphs parted by blank lines come back one by one."""
    path = tmp_path / "f"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8", newline="")
    assert list(read_text(path)) == paragraphs


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bytes_give_text_or_data_error(tmp_path: Path, data: bytes) -> None:
    """Paragraphs are never blank, and nothing but DataError is raised."""
    path = tmp_path / "f"
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert all(paragraph.strip() for paragraph in read_text(path))
