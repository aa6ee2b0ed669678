"""Where the ledger's database is set, and that no password comes out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlback.cli.parser import run
from rlback.errors import ConfigError, LedgerError, RlbackError
from rlback.ledger.address import FILE, VARIABLE, read_address, shown
from rlback.project import Project

SECRET = "swordfish-7"


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_variable_goes_before_the_file_and_the_file_before_sqlite(tmp_path: Path, monkeypatch):
    """Three places, in this order; the password comes from the file that is named."""
    assert read_address(tmp_path) is None
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / FILE).write_text("url: postgresql://ann@db:5433/ledger?sslmode=require\npassword_file: secret\n")
    found = read_address(tmp_path)
    assert (found.host, found.port, found.password, found.query["sslmode"]) == ("db", 5433, SECRET, "require")
    assert shown(found) == "postgresql://ann@db:5433/ledger"
    monkeypatch.setenv(VARIABLE, "postgresql://bob@other/ledger")
    assert shown(read_address(tmp_path)) == "postgresql://bob@other/ledger"


@pytest.mark.parametrize(
    "text",
    [
        f"url: postgresql://ann:{SECRET}@db/ledger", f"url: postgresql://ann@db/ledger?password={SECRET}",
        f"url: mysql://ann:{SECRET}@db/ledger", f"url: postgresql+asyncpg://ann:{SECRET}@db/ledger",
        f"url: postgresql://ann:{SECRET}@db:x{SECRET}/ledger", f"url: {SECRET}", f"{SECRET}: 1\nurl: postgresql://db/x",
        f"password: {SECRET}\nurl: postgresql://db/x", "url: postgresql://db/x\npassword_file: none", "- url", "url: [1]",
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_without_its_secrets(tmp_path: Path, text: str):
    """The error names the file; it quotes no password, wherever in the URL that stood."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"database\.yaml") as refused:
        read_address(tmp_path)
    if not text.startswith(SECRET):  # the name of a key that is not known is quoted
        assert SECRET not in f"{refused.value.message} {refused.value.remedy}"


def test_an_address_that_is_none_is_told_without_quoting_it(tmp_path: Path, monkeypatch):
    """The variable may hold a password, and a typing error may make that a host or a port."""
    for url in (f"postgresql://ann:{SECRET}@db:{SECRET}/x", f"{SECRET}", f"oracle://a:{SECRET}@db"):
        monkeypatch.setenv(VARIABLE, url)
        with pytest.raises(ConfigError, match=VARIABLE) as refused:
            read_address(tmp_path)
        assert SECRET not in f"{refused.value.message} {refused.value.remedy}"


@pytest.mark.parametrize("query", ["", f"?password={SECRET}"])
def test_a_server_that_is_down_is_named_with_the_remedy(tmp_path: Path, monkeypatch, capsys, query: str):
    """By every command, with its address and without the password; as JSON too."""
    pytest.importorskip("psycopg")
    (tmp_path / ".rlback").mkdir()
    monkeypatch.setenv(VARIABLE, f"postgresql://ann:{SECRET}@127.0.0.1:1/ledger{query}")
    with pytest.raises(LedgerError) as refused:
        _ = Project(tmp_path).store
    assert "postgresql://ann@127.0.0.1:1/ledger cannot be reached" in refused.value.message
    assert VARIABLE in refused.value.remedy
    for command in (["status"], ["ledger", "where", "--json"], ["verify", "--quick"], ["users", "list"], ["outbox", "list"]):
        assert run(["--project", str(tmp_path), *command]) == RlbackError.exit_code + 4
        said = capsys.readouterr()
        assert "cannot be reached" in said.err
        assert SECRET not in said.out + said.err
        if "--json" in command:
            assert json.loads(said.err)["error"]["remedy"]
