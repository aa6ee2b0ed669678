"""Whatever a preference file holds, it gives pairs or a DataError that says where."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlback.data.preferences import Limits, read_pairs
from rlback.data.source import Source
from rlback.errors import DataError

GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}
LINE = json.dumps(GOOD).encode() + b"\n"
TURN = {"role": "user", "content": "q"}


def refused(path: Path, data: bytes | None = None, **options: Any) -> DataError:
    """The error that reading gives; it must name the file and a remedy."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_pairs(path, **options)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (b'{"prompt": "p", "chosen" "x"}', "not JSON: Expecting ':' delimiter at column 26"),
        (b'["p", "x", "y"]', "must be a JSON object, this one is a list"),
        (b"17", "must be a JSON object, this one is a number"),
        (LINE.strip() + b" 1", "more text after the object, at column 49"),
        (b'{"prompt": "p", "chosen": "x"}', "missing: column 'rejected'; columns here: 'prompt', 'chosen'"),
        (b'{"prompt": "p", "prompt": "q", "chosen": "x", "rejected": "y"}', "key 'prompt' is there twice"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 13 of the line"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"prompt": ' + b"1" * 5_000 + b"}", "not JSON that can be read"),
    ],
)
def test_lines_that_are_no_rows(tmp_path: Path, second: bytes, words: str) -> None:
    """A bad second line is named with what is wrong and where, and can be skipped over."""
    error = refused(tmp_path / "f", LINE + second + b"\n" + LINE)
    assert "line 2: " in error.message
    assert words in error.message
    found = read_pairs(tmp_path / "f", skip_invalid=True)
    assert (len(found.pairs), found.invalid) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"chosen": ""}, "chosen is empty"),
        ({"rejected": "\n"}, "rejected is empty"),
        ({"rejected": " x"}, "chosen and rejected are the same text"),
        ({"chosen": 3}, "chosen must be text, not a number"),
        ({"chosen": None}, "chosen must be text, not null"),
        ({"prompt": None}, "prompt must be text or a message list, not null"),
        ({"chosen": "a" * 1_000_000}, "chosen is 1,000,000 characters long, the cap is 200,000"),
        ({"chosen": "ab\0c"}, "chosen holds a NUL character at character 3"),
        ({"rejected": "ab\ud800"}, "rejected holds half of a surrogate pair at character 3"),
        ({"topic": "\udc00"}, "topic holds half of a surrogate pair"),
        ({"id": [1]}, "id must be text, not a list"),
        ({"weight": float("nan")}, "weight must be a number above 0 and at most 1,000,000, not nan"),
        ({"weight": float("inf")}, "weight must be"),
        ({"weight": -1}, "weight must be"),
        ({"weight": 1e308}, "line 2: weight must be a number above 0 and at most 1,000,000, not 1e+308"),
        ({"weight": 1_000_001}, "weight must be"),
        ({"weight": 0}, "weight must be"),
        ({"weight": True}, "weight must be"),
        ({"weight": 10**400}, "weight must be"),
        ({"weight": None}, "not null"),
        ({"chosen": [TURN]}, "one of chosen and rejected is a message list"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [{"role": "user"}]}, "prompt, message 1: must be an object with role and content"),
        (
            {"prompt": [{"role": "tool", "content": "q"}]},
            "role must be user, assistant or system, not 'tool'",
        ),
        ({"prompt": [{"role": "user", "content": [{}]}]}, "content must be text, not a list"),
        ({"prompt": [TURN, {"role": "assistant", "content": "r"}]}, "the prompt's last message"),
        ({"chosen": [TURN], "rejected": [TURN], "prompt": [TURN]}, "chosen must be one assistant message"),
        ({"chosen": [TURN], "rejected": [TURN]}, "chosen must be a whole conversation"),
        ({"prompt": [{"role": "user", "content": "a" * 150_000}] * 2}, "prompt is 300,0"),
    ],
)
def test_rows_that_are_no_pairs(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """Each fault in an otherwise good second row is named with its line and column."""
    error = refused(tmp_path / "f", LINE + json.dumps({**GOOD, **changes}).encode())
    assert "line 2: " in error.message
    assert words in error.message


@pytest.mark.parametrize("blank", [b"\n", b" \t\n", b" " * 4_000 + b"\n"], ids=["newlines", "short", "long"])
@pytest.mark.parametrize("header", [b"", LINE, b"prompt,chosen,rejected\n"], ids=["nothing", "json-lines", "csv"])
def test_blank_lines_without_end_are_refused_early(tmp_path: Path, blank: bytes, header: bytes, monkeypatch) -> None:
    """Half a gigabyte of them, packed in half a megabyte: at most 200,000 lines and 20 MiB are looked at."""
    seen = []
    monkeypatch.setattr(Source, "_count", lambda self, size: seen.append(size))
    packed = gzip.compress(header) + gzip.compress(blank * (10**7 // len(blank)), 1) * 50
    message = refused(tmp_path / "f", packed).message
    assert "blank lines" in message or "1 cells where" in message  # to CSV a line of spaces is a cell
    assert len(seen) <= 200_000
    assert sum(seen) <= 20 * 2**20


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("no marks", "chosen has no assistant turn"),
        ("\n\nAssistant: x", "chosen has no human turn"),
        ("\n\nHuman: q\n\nAssistant: x\n\nHuman: z", "chosen ends with a human turn"),
    ],
)
def test_texts_without_prompt_that_are_no_dialogues(tmp_path: Path, chosen: str, words: str) -> None:
    """Without a prompt column the two texts must be dialogues."""
    row = {"chosen": chosen, "rejected": "\n\nHuman: q\n\nAssistant: y"}
    assert words in refused(tmp_path / "f", json.dumps(row).encode()).message


def test_a_prompt_column_that_the_conversation_does_not_hold(tmp_path: Path) -> None:
    """Where prompt text and message lists say different things, neither is guessed to be right."""
    sides = {side: [TURN, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert read_pairs_of(tmp_path / "good", {"prompt": "q", **sides}) == 1
    error = refused(tmp_path / "f", json.dumps({"prompt": "other", **sides}).encode())
    assert "not among the messages" in error.message


def read_pairs_of(path: Path, row: Any) -> int:
    path.write_text(json.dumps(row))
    return len(read_pairs(path).pairs)


def test_unknown_label(tmp_path: Path) -> None:
    """A label outside the known ones is named together with those."""
    row = {"prompt": "p", "a": "x", "b": "y", "label": "left"}
    message = refused(tmp_path / "f", json.dumps(row).encode()).message
    assert "'left'" in message
    assert "'both_bad'" in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty once unpacked"),
        (b" \n\n", "no preference pair (no row)"),
        (b"[]", "no preference pair (no row)"),
        (gzip.compress(LINE * 99, mtime=0)[:-9], "before its first line: the gz data are damaged or cut short"),
        (lzma.compress(LINE * 99)[:-9], "the xz data are damaged or cut short"),
        (bz2.compress(LINE * 99)[:-9], "the bz2 data are damaged or cut short"),
        (gzip.compress(LINE, mtime=0) + b"junk", "the gz data are damaged"),
        (gzip.compress(gzip.compress(LINE, mtime=0), mtime=0), "is packed twice"),
        (b"PK\x03\x04" + LINE, "is a zip archive"),
        (pickle.dumps(GOOD), "is a pickle, which is never loaded"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x7fELF\0\0\0", "is a binary file"),
        (LINE.decode().encode("utf-16"), "is a binary file or not UTF-8"),
        (b"PAR1 but not really", "the Parquet file cannot be read"),
        (b"[" + LINE + b"," + LINE, "after row 2: not JSON: ',' or ']' expected at line 3, column 1"),
        (b"[" + LINE + LINE + b"]", "after row 1: not JSON: ',' or ']' expected at line 2, column 1"),
        (b"[" + LINE + b"] []", "more text after the array"),
        (b'[{"prompt": "\xff"}]', "not UTF-8 at byte 14 of the file"),
        (b"Once upon a time", "missing: column 'chosen', 'rejected'; columns here: 'Once upon a time'"),
        (b"prompt,chosen,rejected,chosen\n", "a CSV column is named twice"),
        (b"prompt,chosen,rejected\np,x\n", "line 2: 2 cells where the header names 3"),
        (b'prompt,chosen,rejected\np,"x\n', "not CSV: unexpected end of data"),
        (b"prompt,chosen,rejected\np,x,y\np,\xff,y\n", "line 3: not UTF-8 at byte 3 of the line"),
        (
            b"prompt,chosen,rejected,weight\np,x,y,nan\n",
            "line 2: weight must be a number above 0 and at most 1,000,000, not 'nan'",
        ),
        (b'prompt,chosen,rejected\np,"x\n\nz",y\np,x,\n', "line 5: rejected is empty"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """Files that are empty, cut short, foreign or malformed."""
    assert words in refused(tmp_path / "f", data).message


def test_damage_is_never_skipped_over(tmp_path: Path) -> None:
    """skip_invalid leaves out rows, not the lost part of a truncated file."""
    refused(tmp_path / "f", gzip.compress(LINE * 99, mtime=0)[:-9], skip_invalid=True)
    refused(tmp_path / "f", b"prompt,chosen\np,x\n", skip_invalid=True)
    refused(tmp_path / "f", b"[" + LINE + b",{]", skip_invalid=True)


def test_only_invalid_rows_is_an_error(tmp_path: Path) -> None:
    """A file of which nothing is left is refused, with the first reason."""
    error = refused(tmp_path / "f", b'{"prompt": 1}\n' * 3, skip_invalid=True)
    assert "3 invalid; first: line 1: missing" in error.message


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": ["p"], "chosen": ["x"]}, "missing: column 'rejected'"),
        ({"prompt": ["p"], "chosen": ["x"], "rejected": [1]}, "row 1: rejected must be text, not a number"),
        (
            {"prompt": ["p", "p"], "chosen": ["x", None], "rejected": ["y", "y"]},
            "row 2: chosen must be text, not null",
        ),
        ({"prompt": ["p"], "chosen": [b"x"], "rejected": [b"y"]}, "row 1: chosen must be text, not bytes"),
    ],
)
def test_parquet_with_wrong_columns(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    """Missing columns and wrong types in Parquet are named with the row."""
    path = tmp_path / "f"
    pq.write_table(pa.table(columns), path)
    assert words in refused(path).message


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    """Missing files, directories, pipes and impossible names are told apart, and no pipe is waited for."""
    assert "does not exist" in refused(tmp_path / "none").message
    assert "is a directory" in refused(tmp_path).message
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe").message
    assert "cannot be opened" in refused(Path("a\0b")).message


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    """A small file that unpacks to much stops at the cap: one line or many, array or Parquet."""
    path = tmp_path / "f"
    assert (
        "unpacks to more than 1,000 bytes"
        in refused(path, gzip.compress(LINE * 100, mtime=0), limits=Limits(max_bytes=1_000), skip_invalid=True).message
    )
    assert (
        "longer than 1,000 bytes"
        in refused(path, gzip.compress(b"{" + b" " * 10_000_000, mtime=0), limits=Limits(max_line_bytes=1_000)).message
    )
    assert (
        "more than 50 lines" in refused(path, gzip.compress(b"\n" * 100, mtime=0), limits=Limits(max_rows=50)).message
    )
    assert (
        "not read whole"
        in refused(path, b"[" + b" " * 2_000 + b"]", limits=Limits(max_whole_bytes=1_000)).message
    )
    assert (
        "more than 5 rows"
        in refused(path, json.dumps([GOOD] * 6).encode(), limits=Limits(max_rows=5)).message
    )
    pq.write_table(pa.table({key: [value] * 600 for key, value in GOOD.items()}), path)
    assert "too many" in refused(path, limits=Limits(max_rows=500)).message


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """The digest and the pairs are of one state of the file, or there are none."""
    path = tmp_path / "f"
    row = {"prompt": [TURN], "chosen": "x", "rejected": "y"}

    def meddle(messages: Any) -> str:
        with path.open("ab") as file:
            file.write(b"\n")
        return "p"

    assert "changed while" in refused(path, json.dumps(row).encode(), render=meddle).message


def pairs_or_data_error(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for skip in (False, True):
        try:
            found = read_pairs(
                path, skip_invalid=skip, prompt_mismatch="drop", limits=Limits(max_bytes=10**6)
            )
        except DataError:
            continue
        assert found.pairs
        assert all(pair.chosen.strip() != pair.rejected.strip() for pair in found.pairs)
        assert found.rows >= len(found.pairs)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
PACKS = st.sampled_from([bytes, gzip.compress, lzma.compress, bz2.compress])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "user", "a"]), inner, max_size=3)
        | st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=3)}
        )
    ),
    max_leaves=6,
)
COLUMNS = ("prompt", "chosen", "rejected", "a", "b", "label", "conversation_a", "conversation_b", "winner")
ROWS = st.dictionaries(st.sampled_from([*COLUMNS, "id", "topic", "weight"]), JSON, max_size=7)


@FUZZ
@given(
    head=st.sampled_from(
        [b"", b"[", b"{", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh9", b"PAR1", b"prompt,chosen,rejected\n", LINE]
    ),
    tail=st.binary(max_size=200),
)
@example(head=b"\x1f\x8b", tail=b"")
@example(head=b"\xef\xbb\xbf", tail=b"")
def test_any_bytes(tmp_path: Path, head: bytes, tail: bytes) -> None:
    """Arbitrary bytes, with and without the start of a known format."""
    pairs_or_data_error(tmp_path / "f", head + tail)


@FUZZ
@given(rows=st.lists(ROWS, min_size=1, max_size=4), array=st.booleans(), pack=PACKS)
def test_any_json(tmp_path: Path, rows: list[Any], array: bool, pack: Any) -> None:
    """Arbitrary JSON in the known columns, lone surrogates and NaN included."""
    text = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    pairs_or_data_error(tmp_path / "f", pack(text.encode()))


@FUZZ
@given(text=st.text(st.sampled_from('ab,"\n\r\0 \u2028'), max_size=60))
def test_any_csv(tmp_path: Path, text: str) -> None:
    """Arbitrary cells, quotes and line ends after a good header."""
    pairs_or_data_error(tmp_path / "f", b"prompt,chosen,rejected\n" + text.encode())


def packed_examples() -> list[bytes]:
    buffer = io.BytesIO()
    pq.write_table(pa.table({key: [value] * 3 for key, value in GOOD.items()}), buffer)
    return [buffer.getvalue(), gzip.compress(LINE, mtime=0), lzma.compress(LINE), bz2.compress(LINE)]


@FUZZ
@given(
    which=st.integers(0, 3),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_any_damage(tmp_path: Path, which: int, changes: list[tuple[int, int]]) -> None:
    """Good packed and Parquet files with some bytes changed."""
    data = bytearray(packed_examples()[which])
    for place, value in changes:
        data[place % len(data)] = value
    pairs_or_data_error(tmp_path / "f", bytes(data))
