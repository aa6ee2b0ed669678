"""One transaction for a change and its event."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DatabaseError

from rlback.errors import DataError, LedgerError
from rlback.ledger.chain import first_break
from rlback.ledger.postgresql import LOCK
from rlback.ledger.store import Store
from rlback.ledger.tables import aliases, events
from rlback.project import Project, make_project
from rlback.records import Actor
from tests.behind import other_program

ADA = Actor("ada", "human")


@pytest.fixture
def kind(on_both: str) -> str:
    """Every test of this module on both databases."""
    return on_both


def test_a_change_and_its_event_appear_together_or_not_at_all(project: Project):
    """An error after both statements leaves neither the row nor the event."""
    with pytest.raises(RuntimeError, match="stop"), project.store.transaction() as transaction:
        transaction.execute(insert(aliases).values(policy="p", alias="approved", version=1))
        transaction.event("alias.moved", "p", ADA, {})
        raise RuntimeError("stop")
    assert project.store.rows(aliases.select()) == []
    assert project.store.event_count() == 0
    assert project.store.heads.lines() == []


REWRITES = {
    "sqlite": ["UPDATE events SET actor = 'eve'", "DELETE FROM events", "INSERT OR REPLACE INTO events SELECT * FROM events"],
    "postgresql": [
        "UPDATE events SET actor = 'eve'", "DELETE FROM events", "TRUNCATE events CASCADE",
        "INSERT INTO events SELECT * FROM events ON CONFLICT (seq) DO UPDATE SET actor = 'eve'",
        "SET session_replication_role = replica; DELETE FROM events",
    ],
}  # fmt: skip


def test_the_database_itself_refuses_to_rewrite_events(project: Project, kind: str):
    """Even another program cannot update, delete or replace an event without dropping our triggers."""
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {"n": 1})
    for statement in REWRITES[kind]:
        with other_program(project.store).connect() as connection, pytest.raises(DatabaseError, match="append-only"):
            connection.exec_driver_sql(statement)
    assert [e.actor for e in project.store.events()] == ["ada"]


def test_events_of_four_writers_make_one_unbroken_chain(project: Project):
    """Four threads over two openings of the database, 15 transactions each: events 1 to 60 in one chain, none lost or doubled."""
    store, other = project.store, Project(project.root).store

    def write(where: Store, name: str) -> None:
        for n in range(15):
            with where.transaction() as transaction:
                transaction.event("kind", name, ADA, {"n": n})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, (store, other) * 2, ("w0", "w1", "w2", "w3")))
    other.close()
    rows = [tuple(row) for row in store.rows(events.select().order_by(events.c.seq))]
    assert [row[0] for row in rows] == list(range(1, 61))
    assert first_break(rows) is None


def test_a_database_that_is_none_is_named(tmp_path):
    """Garbage in place of the ledger gives our error with the file's name, not a traceback of SQLite."""
    (tmp_path / ".rlback").mkdir()
    (tmp_path / ".rlback" / "ledger.db").write_bytes(b"this is no database, but long enough to be looked at" * 20)
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        _ = make_project(tmp_path).store


def test_a_newer_schema_is_refused(project: Project):
    """A database written by a later version is not touched."""
    with other_program(project.store).connect() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99'")
    with pytest.raises(LedgerError, match="99"):
        _ = Project(project.root).store


BLOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": f"BEGIN; SELECT pg_advisory_xact_lock({LOCK})"}


def test_a_locked_database_is_waited_for(project: Project, kind: str):
    """A writer that finds the database busy waits instead of losing its event."""
    engine = other_program(project.store)
    blocker = engine.raw_connection()
    blocker.cursor().execute(BLOCKS[kind])
    timer = threading.Timer(0.5, lambda: blocker.cursor().execute("COMMIT"))
    timer.start()
    began = time.monotonic()
    with project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    assert time.monotonic() - began > 0.3
    timer.join()
    assert project.store.event_count() == 1


def test_a_database_that_stays_locked_is_named_and_nothing_is_written(project: Project, kind: str, monkeypatch):
    """After the longest wait the error says that it is busy; the next write succeeds."""
    monkeypatch.setattr("rlback.ledger.sqlite.BUSY_MS", 50)
    monkeypatch.setattr("rlback.ledger.postgresql.SESSION", "SET lock_timeout = '50ms'")
    store = Project(project.root).store
    blocker = other_program(project.store).raw_connection()
    blocker.cursor().execute(BLOCKS[kind])
    with pytest.raises(LedgerError, match="busy"), store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    blocker.cursor().execute("ROLLBACK")
    with store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
    assert store.event_count() == 1
    store.close()


def test_a_failing_statement_undoes_the_whole_transaction(project: Project):
    """A second row with the same key undoes the first one's event too."""
    with pytest.raises(DatabaseError), project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
        for _ in range(2):
            transaction.execute(insert(aliases).values(policy="p", alias="approved", version=1))
    assert project.store.event_count() == 0


def test_a_failure_that_nobody_reported_is_no_commit(project: Project, kind: str):
    """A failed statement whose error is swallowed: all or nothing, and no head is signed for what is not there."""
    swallowed = pytest.raises(LedgerError, match="nothing was saved") if kind == "postgresql" else nullcontext()
    with swallowed, project.store.transaction() as transaction:
        transaction.event("kind", "subject", ADA, {})
        with suppress(DatabaseError):
            transaction.execute(text("INSERT INTO meta VALUES ('schema', '1')"))
    count = project.store.event_count()
    assert count == (0 if kind == "postgresql" else 1)
    assert len([line for line in project.store.heads.lines() if line]) == count


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
def test_a_text_that_one_of_them_cannot_keep_is_refused_by_both(project: Project, bad: str):
    """NUL and half a surrogate pair: the same error, and nothing is written, in one row or in many."""
    for rows in ([{"policy": bad, "alias": "x", "version": 1}], [{"policy": p, "alias": "x", "version": 1} for p in ("p", bad)]):
        with pytest.raises(DataError, match="at character 2"), project.store.transaction() as transaction:
            transaction.execute(insert(aliases), rows)
    with pytest.raises(DataError, match="at character 2"):
        project.store.rows(aliases.select().where(aliases.c.policy == bad))
    assert project.store.rows(aliases.select()) == []


def test_texts_are_ordered_by_their_bytes(project: Project):
    """What is sorted is the same on both, whatever language the server speaks."""
    names = ["b", "B", "a-b", "a_b", "ab", "é", "Z", "z", "日"]
    with project.store.transaction() as transaction:
        transaction.execute(insert(aliases), [{"policy": name, "alias": "x", "version": 1} for name in names])
    held = [row.policy for row in project.store.rows(select(aliases.c.policy).order_by(aliases.c.policy))]
    assert held == sorted(names, key=str.encode)


WRITER = """
import sys, time
from pathlib import Path
from sqlalchemy import insert
from rlback.ledger.tables import aliases
from rlback.project import Project
from rlback.records import Actor

store, name = Project(Path(sys.argv[1])).store, sys.argv[2]
for n in range(10_000):
    with store.transaction() as transaction:
        transaction.execute(insert(aliases).values(policy=f"{name}{n}", alias="x", version=n))
        transaction.event("kind", name, Actor(name, "human"), {"n": n})
        print("inside", n, flush=True)
        time.sleep(0.002)
    print("saved", n, flush=True)
"""


def test_writers_killed_in_the_middle_lose_and_double_nothing(project: Project):
    """Two processes write; each is killed inside a transaction. What they said was saved is there, whole and once."""
    command = [sys.executable, "-c", WRITER, str(project.root)]
    said = {}
    for name in ("one", "two"):
        process = subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True)
        lines: list[str] = []
        while len(lines) < 7 or not lines[-1].startswith("inside"):
            lines.append(process.stdout.readline())
            assert lines[-1], "the writer ended"
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        said[name] = [int(line.split()[1]) for line in lines if line.startswith("saved")]
    with project.store.transaction() as transaction:  # the dead hold nothing
        transaction.event("kind", "three", ADA, {})
    rows = [tuple(row) for row in project.store.rows(events.select().order_by(events.c.seq))]
    assert first_break(rows) is None
    for name, saved in said.items():
        written = [e.payload["n"] for e in project.store.events(name)]
        assert written == list(range(len(written)))
        # The last commit may have been made and not said; nothing that was said is missing.
        assert len(saved) <= len(written) <= len(saved) + 1
        held = project.store.rows(select(aliases.c.version).where(aliases.c.policy.like(f"{name}%")).order_by(aliases.c.version))
        assert [row.version for row in held] == written


def test_a_new_database_has_every_table(tmp_path: Path):
    """In a process that has loaded nothing else: what a later module would add to the metadata is there already."""
    code = (
        "import importlib, pkgutil, sys\n"
        "from pathlib import Path\n"
        "from sqlalchemy import inspect\n"
        "from rlback.project import make_project\n"
        "store = make_project(Path(sys.argv[1])).store\n"
        "held = set(inspect(store.engine).get_table_names())\n"
        "import rlback.ledger as ledger\n"
        "for module in pkgutil.iter_modules(ledger.__path__): importlib.import_module(f'rlback.ledger.{module.name}')\n"
        "from rlback.ledger.tables import metadata\n"
        "assert len(held) > 20 and held == set(metadata.tables), held ^ set(metadata.tables)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], check=True)
