"""Bad input at the command that a person gives: what is wrong and where, what helps, and nothing on record."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlback.project import make_project
from tests.campaign.walking import command, entered, lines, plain, start
from tests.conftest import ROOT

GOOD = plain()[0]
HEADER = b"prompt,chosen,rejected\n"


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [value, value] for name, value in (GOOD | columns).items()}), buffer)
    return buffer.getvalue()


def row(**changes: object) -> bytes:
    """Two good lines and a third with something changed."""
    return lines([GOOD, GOOD]) + json.dumps(GOOD | changes).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "place", "named"),
    [
        (lines([GOOD]) + b'{"prompt": "p", \n', ", line 2: ", "not JSON"),
        (lines([GOOD]) + b'{"prompt": "p", "chosen": "x"}\n', ", line 2: ", "missing: column 'rejected'"),
        (b"prompt,chosen,dispreferred\np,x,y\n", ": ", "missing: column 'rejected'"),
        (row(chosen=" "), ", line 3: ", "chosen is empty"),
        (row(rejected=GOOD["chosen"]), ", line 3: ", "chosen and rejected are the same text"),
        (row(chosen="a" * 1_000_000), ", line 3: ", "chosen is 1,000,000 characters long, the cap is 200,000"),
        (row(prompt="a\0b"), ", line 3: ", "prompt holds a NUL character at character 2"),
        (HEADER + b"p,x,y\n" * 20_000 + b"p,x\0,y\n", ", line 20002: ", "chosen holds a NUL character at character 2"),
        (row(rejected="a\ud800"), ", line 3: ", "rejected holds half of a surrogate pair at character 2"),
        (HEADER + b"p,x,y\np,\xed\xa0\x80,y\n", ", line 3: ", "not UTF-8 at byte 3"),
        (gzip.compress(lines([GOOD] * 99), mtime=0)[:-9], ", before its first line: ", "the gz data are damaged or cut short"),
        (parquet(chosen=7), ", row 1: ", "chosen must be text, not a number"),
        (parquet(prompt=1.5), ", row 1: ", "prompt must be text or a message list, not a number"),
        (parquet(chosen=["a"], rejected=["b"]), ", row 1: ", "chosen, message 1: must be an object with role and content"),
        (parquet(chosen=None), ", row 1: ", "chosen must be text, not null"),
        (parquet(chosen={"role": "assistant", "content": "x"}), ", row 1: ", "chosen must be text, not an object"),
    ],
    ids=lambda part: part.replace(" ", "-") if isinstance(part, str) and len(part) > 14 else "",
)
def test_a_file_that_cannot_be_used_is_named_with_the_line_and_nothing_is_started(
    tmp_path: Path, content: bytes, place: str, named: str
):
    """Without a dry run too: file, line, fault and remedy in two lines, and no campaign that could never go on."""
    path = tmp_path / "given"
    path.write_bytes(content)
    with entered(tmp_path / "p") as project:
        said = start("table.yaml", path, status=3).splitlines()
        assert f"{path}{place}" in said[0]
        assert named in said[0]
        assert len(said[0]) < 400
        assert len(said) == 2
        assert project.store.event_count() == 0


def as_text(tmp_path: Path, content: bytes) -> list[str]:
    path = tmp_path / "text"
    path.write_bytes(content)
    return ["--text", str(path)]


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (lambda at: ["--pairs", str(at / "none.jsonl")], 2, "--pairs: there is no file"),
        (lambda at: ["--pairs", str(at)], 2, "--pairs: there is no file"),  # nor the file that a directory stands for
        (lambda at: ["--pairs", str(at / "pairs"), "--votes", str(at)], 2, "--votes: {at} is a directory"),
        (lambda at: ["--pairs", str(at / "pairs"), *as_text(at, b"\0")], 3, "{at}/text, line 1: holds a NUL character"),
        (lambda at: ["--pairs", str(at / "pairs"), *as_text(at, gzip.compress(b"word " * 999, mtime=0)[:-30])], 3, "cut short"),
        (lambda at: ["--pairs", str(at / "pairs"), "--votes", str(at / "pairs")], 3, "{at}/pairs, line 1: missing: column 'id'"),
        (lambda at: ["--pairs", "/dev/null"], 2, "--pairs: /dev/null is not a regular file"),
    ],
)
def test_paths_that_are_not_what_the_option_asks_for(
    tmp_path: Path, words: Callable[[Path], list[str]], status: int, named: str
):
    """A missing file, a directory, a device and another kind of file are told apart by option or file name."""
    (tmp_path / "pairs").write_bytes(lines(plain()))
    with entered(tmp_path / "p") as project:
        said = command("run", str(ROOT / "configs" / "table.yaml"), *words(tmp_path), status=status)
        assert named.format(at=tmp_path) in said
        assert project.store.event_count() == 0


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"name: a\nbase: {path: x\n", "is not valid YAML"),
        (b"- a\n", "must hold a mapping"),
        (b"\xff\xfe", "cannot be read"),
        (b"name: \0\n", "is not valid YAML"),
        (b"{" * 100_000, "is not valid YAML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, named: str):
    """File and fault, exit status 2, and nothing on record."""
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with entered(tmp_path / "p") as project:
        said = command("run", str(path), status=2)
        assert str(path) in said
        assert named in said
        assert project.store.event_count() == 0
        assert "Is a directory" in command("run", str(tmp_path), status=2)


def test_a_project_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Outside a project, and with --project naming a file, a missing or a foreign directory: the place, `rlback init`."""
    monkeypatch.setenv("RLBACK_PROJECT", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for words in (["status"], *(["--project", str(tmp_path / name), "status"] for name in ("file", "none", "."))):
        said = command(*words, status=2)
        assert str(tmp_path) in said
        assert "rlback init" in said
        os.environ["RLBACK_PROJECT"] = ""
    assert "cannot make a project" in command("init", str(tmp_path / "file" / "below"), status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    make_project(tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p" / ".rlback")
    assert "No campaign is active" in command("status")
