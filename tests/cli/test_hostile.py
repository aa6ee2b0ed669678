"""What a hostile or careless user types: refused with a message that names it, and nothing outside the project is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from rlback.cli.parser import run as main
from rlback.config import read_config
from rlback.errors import ConfigError
from rlback.ledger.heads import Heads
from rlback.ledger.store import Store
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.deployments import deploy
from rlback.registry.gates import decide, open_gates
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions
from tests.conftest import ROOT


@pytest.fixture
def inside(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.root)
    return project


@pytest.mark.parametrize("name", ["../../escaped", "\x1b[31mred", "", "UPPER", "a" * 42])
@pytest.mark.parametrize("dry", [True, False])
def test_a_name_that_is_a_path_or_an_escape_is_refused(inside: Project, capsys, name: str, dry: bool) -> None:
    """A campaign's name becomes part of paths, so only plain ones are taken, in a dry run too."""
    command = ["run", str(ROOT / "configs" / "demo.yaml"), "--name", name, *(["--dry-run"] if dry else [])]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "no name for a campaign" in error
    assert "\x1b" not in error
    assert not list(inside.root.parent.rglob("escaped*"))


def test_what_a_message_quotes_moves_no_cursor(inside: Project, capsys) -> None:
    """A file's name with an escape and a text that is turned round, and a pipe that is there but is no file."""
    command = ["run", str(ROOT / "configs" / "explicit-prompt.yaml"), "--dry-run", "--pairs"]
    assert main([*command, "none\x1b[31m\u202e.jsonl"]) == 2
    assert "none⟦U+001B⟧[31m⟦U+202E⟧.jsonl" in capsys.readouterr().err
    os.mkfifo(inside.root / "pipe")
    assert main([*command, "pipe"]) == 2
    assert "pipe is not a regular file" in capsys.readouterr().err


def test_a_reason_moves_no_cursor_and_makes_no_line_of_its_own(at_gate: Project, monkeypatch, capsys) -> None:
    """As `gate show` and `audit` print it."""
    monkeypatch.chdir(at_gate.root)
    gate = open_gates(at_gate.store)[0]
    decide(at_gate.store, gate.id, "decline", Actor("eve", "human"), digest=gate.digest, reason="no\x1b[2J\nBREAK-GLASS \u202ex")
    for command in (["gate", "show", gate.id], ["audit", "policy@2"]):
        assert main(command) == 0
        assert "no⟦U+001B⟧[2J BREAK-GLASS ⟦U+202E⟧x" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["stop", "person"], ["gate", "decline", "person.r1", "--digest", "0" * 12], ["rollback", "policy@1"],
        ["deploy", "policy@1"], ["labels", "quarantine", "ann"], ["users", "change", "ann", "--disable"],
    ],
)  # fmt: skip
def test_a_reason_has_an_end(at_gate: Project, monkeypatch, capsys, words: list[str]) -> None:
    """20,000 characters are refused with the limit, before anything is looked at; it is the console's own."""
    monkeypatch.chdir(at_gate.root)
    before = at_gate.store.event_count()
    assert main([*words, "--reason", "x" * 20_000]) == 2
    assert "a reason has at most 2,000 characters; this one has 20,000" in capsys.readouterr().err
    assert at_gate.store.event_count() == before


@pytest.mark.parametrize("name", ["what?x", "p%41", "a 'b\" ü"])
def test_a_path_with_url_characters_holds_its_own_ledger(tmp_path: Path, name: str) -> None:
    """`?` and `%` mean something in a database URL and nothing in a path."""
    directory = tmp_path / name
    directory.mkdir()
    store = Store.sqlite(directory / "ledger.db", Heads(directory / "heads.jsonl", directory / "key"))
    store.close()
    assert (directory / "ledger.db").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_a_yaml_bomb_is_refused_at_once(inside: Project, capsys) -> None:
    """Nine levels of eight aliases under unknown keys: the message names the key and prints none of it."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 10)]
    (inside.root / "bomb.yaml").write_text("\n".join(lines))
    assert main(["run", "bomb.yaml", "--dry-run"]) == 2
    assert len(capsys.readouterr().err) < 2000


@pytest.mark.parametrize("content", ["x: 2020-13-45", "x: !!int foo", "x: 0b_", "[" * 3000])
def test_yaml_that_cannot_be_converted_is_named(tmp_path: Path, content: str) -> None:
    """A date that is none, a number that is none, nesting without end."""
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_config(tmp_path / "c.yaml")


def test_a_pipe_or_a_huge_file_is_no_configuration(tmp_path: Path) -> None:
    """A FIFO would block for ever, a large file is something else."""
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_config(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * 200_000)
    with pytest.raises(ConfigError, match="larger than"):
        read_config(tmp_path / "large.yaml")


def test_a_world_that_is_none_is_refused_before_anything_is_recorded(inside: Project, capsys) -> None:
    """The nearest one is named, in a dry run too, and no campaign stays behind."""
    command = ["run", str(ROOT / "configs" / "demo.yaml"), "--set", "source.world=visit"]
    for extra in (["--dry-run"], []):
        assert main([*command, *extra]) == 2
        assert "`visits`" in capsys.readouterr().err
    assert inside.store.rows(text("select * from campaigns")) == []


def test_a_person_cannot_take_a_name_of_the_systems_own(inside: Project, capsys) -> None:
    """Decisions and labels by `simulated` would read like a simulation's."""
    assert main(["run", str(ROOT / "configs" / "segments.yaml"), "--as", "Simulated"]) == 2
    assert "system's own" in capsys.readouterr().err


def test_a_version_number_without_end_is_no_version(inside: Project, capsys) -> None:
    """Thirty digits name nothing, and overflow nothing."""
    assert main(["rollback", "policy@" + "9" * 30, "--reason", "x"]) == 4
    assert "no such version" in capsys.readouterr().err


def test_a_row_that_says_human_deploys_nothing(finished: Project) -> None:
    """Whoever may deploy is read from the hash-chained event: an edited row of a simulated approval changes nothing."""
    approved = [v for v in list_versions(finished.store, "policy") if v.status == "approved"]
    if not approved:
        pytest.fail("the tiny campaign is expected to approve a candidate")
    with finished.store.engine.connect() as connection:
        connection.execute(text("drop trigger decisions_no_update"))
        connection.execute(text("update decisions set approver_kind = 'human'"))
    with pytest.raises(Exception, match="can never be deployed"):
        deploy(finished, MlflowStore(finished.root), approved[-1], Actor("eve", "human"), "mine now")
