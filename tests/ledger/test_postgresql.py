"""What only a PostgreSQL server has: roles, connections that end, databases that others made."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from rlback.accounts.users import add_user
from rlback.cli.parser import run
from rlback.errors import LedgerError
from rlback.labelling.queue import give, next_shown
from rlback.ledger.console_tables import label_details
from rlback.ledger.store import Store
from rlback.ledger.tables import aliases, events, labels, metadata
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.gates import decide, open_gates
from rlback.registry.verification import verify
from tests.conftest import OWN, ROOT
from tests.labelling.made import made_batch, made_campaign
from tests.postgres import Server

ADA, ANN = Actor("ada", "human"), Actor("ann", "human")


@pytest.fixture
def kind() -> str:
    """Every test of this module on PostgreSQL alone."""
    return OWN


def as_role(project: Project, role: str) -> Project:
    """The same project, opened by another role of the server."""
    file = project.root / "database.yaml"
    file.write_text(file.read_text().replace("//rlback@", f"//{role}@"))
    return Project(project.root)


def granted(server: Server, project: Project, role: str) -> None:
    """A role with the rights that docs/database.md gives the one for every day."""
    block = re.search(r"```sql\n(CREATE ROLE rlback LOGIN.*?)```", (ROOT / "docs" / "database.md").read_text(), re.S)[1]
    server.run(f"CREATE ROLE {role} LOGIN")
    grants = block.partition(";")[2].replace("TO rlback;", f"TO {role};")
    server.run(grants, project.store.engine.url.database)


def test_the_role_of_every_day_does_everything_but_rewrite(project: Project, postgresql: Server):
    """With the documented rights people label and verify; the tables' triggers and the ledger's rows are out of reach."""
    made_campaign(project)
    granted(postgresql, project, "everyday")
    database = project.store.engine.url.database
    ours = as_role(project, "everyday")
    batch = made_batch(ours, 3)
    add_user(ours.store, "root", "correct horse battery", ["admin"], ADA)
    shown = next_shown(ours.store, batch, ANN)
    give(ours.store, shown.item.id, ANN, "left1", key="k" * 8)
    assert verify(ours, None).findings == []
    for statement in (
        "UPDATE events SET actor = 'eve'", "DELETE FROM events", "TRUNCATE events", "DROP TABLE events",
        "ALTER TABLE events DISABLE TRIGGER ALL", "DROP TRIGGER events_no_update ON events", "UPDATE labels SET verdict = 'a'",
        "DELETE FROM decisions", "CREATE OR REPLACE FUNCTION rlback_refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
    ):  # fmt: skip
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            postgresql.run(statement, database, role="everyday")
    ours.store.close()


def test_a_role_that_may_only_read_verifies_and_is_told_why_it_cannot_write(project: Project, postgresql: Server):
    """Opening and verifying write nothing; a write names the remedy."""
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    postgresql.run("CREATE ROLE reader LOGIN")
    postgresql.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", project.store.engine.url.database)
    reading = as_role(project, "reader")
    assert verify(reading, None).findings == []
    refusal = pytest.raises(LedgerError, match="refuses to be written: permission denied")
    with refusal as refused, reading.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    assert "docs/database.md" in refused.value.remedy
    reading.store.close()


def test_reading_cannot_write(project: Project):
    """Outside a write transaction the connection is read-only, after one too."""
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    with project.store.engine.connect() as connection, pytest.raises(Exception, match="read-only"):
        connection.execute(insert(aliases).values(policy="p", alias="x", version=1))


def test_a_connection_that_ends_in_a_transaction_saves_nothing_and_the_next_goes_on(project: Project, postgresql: Server):
    """The server ends our session in the middle, as a restart does: it is said, and the store goes on by itself."""
    store = project.store
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'rlback'"
    with pytest.raises(LedgerError, match="cannot be reached"), store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
        postgresql.run(end.format(store.engine.url.database))
        transaction.event("kind", "subject", ADA, {})
    assert store.event_count() == 0
    assert store.heads.lines() == []
    postgresql.run(end.format(store.engine.url.database))
    with store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    assert store.event_count() == 1


def test_two_processes_make_the_same_empty_database_at_once(postgresql: Server, tmp_path: Path):
    """Both open it, and it has each table and trigger once."""
    url = postgresql.make()
    code = (
        "import sys; from pathlib import Path; from rlback.ledger.heads import Heads; from rlback.ledger.store import Store; "
        "p = Path(sys.argv[2]); sys.stdin.readline(); print(Store(sys.argv[1], Heads(p / 'heads', p / 'key')).event_count())"
    )
    command = [sys.executable, "-c", code, url, str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in both] == ["0\n", "0\n"]
    database = url.rpartition("/")[2]
    (tables,) = postgresql.run("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database)
    assert tables == (len(metadata.tables),)


def test_an_encoding_that_cannot_hold_every_text_is_refused(postgresql: Server, tmp_path: Path):
    """LATIN1 keeps no CJK: it is said before anything is made."""
    from rlback.ledger.heads import Heads

    postgresql.run("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(LedgerError, match="encoding LATIN1"):
        Store(postgresql.url("latin"), Heads(tmp_path / "heads", tmp_path / "key"))


def test_a_ledger_moves_with_its_heads_and_goes_on(human_template: Path, tmp_path: Path, postgresql: Server, monkeypatch, capsys):
    """`rlback ledger copy`: the chain verifies, numbers go on, the gate can be decided; a second copy is refused."""
    import shutil

    root = tmp_path / "moved"
    shutil.copytree(human_template, root)
    before = Project(root)
    said = before.store.events()
    before.store.close()
    (root / "database.yaml").write_text(f"url: {postgresql.make()}\n")
    file = str(root / ".rlback" / "ledger.db")
    assert run(["--project", str(root), "ledger", "copy", file]) == 0
    assert f"{len(said)} of them events" in capsys.readouterr().out
    after = Project(root)
    assert after.store.events() == said
    assert verify(after, None).findings == []
    newest = max(row.id for row in after.store.rows(select(labels.c.id)))
    batch = made_batch(after, 1, name=made_campaign(after), round_=1)
    shown = next_shown(after.store, batch, ANN)
    give(after.store, shown.item.id, ANN, "left1", key="k" * 8)
    assert after.store.first(select(label_details.c.label)).label == newest + 1
    gate = open_gates(after.store)[0]
    assert decide(after.store, gate.id, "decline", ADA, digest=gate.digest, reason="x").state == "declined"
    assert verify(after, None).findings == []
    assert run(["--project", str(root), "ledger", "copy", file]) == LedgerError.exit_code
    assert "holds a ledger already" in capsys.readouterr().err
    after.store.close()


def test_lost_events_are_found_by_their_heads(project: Project, postgresql: Server):
    """A replica that was behind takes over: events whose heads are signed are gone, and it is said."""
    for _ in range(3):
        with project.store.transaction() as transaction:
            transaction.event("kind", "subject", ADA, {})
    database = project.store.engine.url.database
    postgresql.run("ALTER TABLE events DISABLE TRIGGER ALL; DELETE FROM events WHERE seq = 3", database)
    assert any("tail was cut" in finding.what for finding in verify(project, None).findings)
    assert project.store.rows(select(events.c.seq).order_by(events.c.seq)) == [(1,), (2,)]
