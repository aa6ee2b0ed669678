"""One transaction for a change and its event."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DatabaseError

from rlback.errors import LedgerError
from rlback.ledger.chain import first_break
from rlback.ledger.tables import aliases, events
from rlback.project import Project, make_project
from rlback.records import Actor

ADA = Actor("ada", "human")


def test_a_change_and_its_event_appear_together_or_not_at_all(project: Project):
    """An error after both statements leaves neither the row nor the event."""
    with pytest.raises(RuntimeError, match="stop"), project.store.transaction() as transaction:
        transaction.execute(insert(aliases).values(policy="p", alias="approved", version=1))
        transaction.event("alias.moved", "p", ADA, {})
        raise RuntimeError("stop")
    assert project.store.rows(aliases.select()) == []
    assert project.store.event_count() == 0
    assert project.store.heads.lines() == []


@pytest.mark.parametrize("statement", ["UPDATE events SET actor = 'eve'", "DELETE FROM events",
                                       "INSERT OR REPLACE INTO events SELECT * FROM events"])  # fmt: skip
def test_the_database_itself_refuses_to_rewrite_events(project: Project, statement: str):
    """Even another program cannot update, delete or replace an event without dropping our triggers."""
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {"n": 1})
    connection = sqlite3.connect(project.state / "ledger.db")
    connection.execute("PRAGMA recursive_triggers=ON")
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(statement)


def test_events_of_four_writers_make_one_unbroken_chain(project: Project):
    """Four threads with 15 transactions each leave events 1 to 60 in one chain, none lost, none doubled."""
    store = project.store

    def write(name: str) -> None:
        for n in range(15):
            with store.transaction() as transaction:
                transaction.event("kind", name, ADA, {"n": n})

    threads = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [tuple(row) for row in store.rows(events.select().order_by(events.c.seq))]
    assert [row[0] for row in rows] == list(range(1, 61))
    assert first_break(rows) is None


def test_a_database_that_is_none_is_named(tmp_path, monkeypatch):
    """Garbage in place of the ledger gives our error with the file's name, not a traceback of SQLite."""
    (tmp_path / ".rlback").mkdir()
    (tmp_path / ".rlback" / "ledger.db").write_bytes(b"this is no database, but long enough to be looked at" * 20)
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        _ = make_project(tmp_path).store


def test_a_newer_schema_is_refused(project: Project):
    """A database written by a later version is not touched."""
    connection = sqlite3.connect(project.state / "ledger.db")
    connection.execute("UPDATE meta SET value = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="99"):
        _ = Project(project.root).store


def test_a_locked_database_is_waited_for(project: Project):
    """A writer that finds the database busy waits instead of losing its event."""
    blocker = sqlite3.connect(project.state / "ledger.db", isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, lambda: blocker.execute("COMMIT"))
    timer.start()
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    timer.join()
    assert project.store.event_count() == 1


def test_a_failing_statement_undoes_the_whole_transaction(project: Project):
    """A second row with the same key undoes the first one's event too."""
    with pytest.raises(DatabaseError), project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
        for _ in range(2):
            transaction.execute(insert(aliases).values(policy="p", alias="approved", version=1))
    assert project.store.event_count() == 0
