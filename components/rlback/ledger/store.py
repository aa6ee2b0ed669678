"""The database: one transaction for a change and its event.

SQLite by default, in WAL mode with full synchronisation. Writers queue on BEGIN IMMEDIATE; a busy database is
waited for half a minute. `RLBACK_DATABASE_URL` may name another SQLAlchemy URL.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, inspect, make_url, select
from sqlalchemy.exc import DatabaseError, OperationalError

from rlback.errors import LedgerError
from rlback.ledger import gate_tables, label_tables, outbox, tables
from rlback.ledger.chain import GENESIS, Event, event_hash
from rlback.ledger.heads import Heads
from rlback.records import Actor, canonical_json

BUSY_MS = 30_000
#: Tables that a database made by an earlier version lacks; they are added when it is opened.
LATER = (*label_tables.LABEL_TABLES, *outbox.TABLES, *gate_tables.TABLES)
APPEND_ONLY_LATER = (*label_tables.LABEL_APPEND_ONLY, *gate_tables.APPEND_ONLY)
# Built once: composing a statement costs more than running it.
_NEWEST = select(tables.events.c.seq, tables.events.c.hash).order_by(tables.events.c.seq.desc()).limit(1)
_ADD_EVENT = insert(tables.events)


def now() -> str:
    """The present moment, UTC, ISO 8601 to the millisecond. The order of events is `seq`, never this."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refuse_changes(connection: Connection, names: Iterable[str]) -> None:
    """Puts triggers on tables that refuse UPDATE and DELETE; again is no change."""
    for name in names:
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS {name}_no_{verb.lower()} BEFORE {verb} ON {name} "
                f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
            )


class Transaction:
    """A write transaction: run statements through `execute`, record what they mean with `event`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.head: tuple[int, str] | None = None

    def execute(self, statement: Any, *args: Any) -> Any:
        """Runs one SQLAlchemy statement inside the transaction."""
        return self.connection.execute(statement, *args)

    def rows(self, statement: Any) -> Sequence[Any]:
        """All rows of a query, as `Store.rows`, seen from inside the transaction."""
        rows: Sequence[Any] = self.connection.execute(statement).all()
        return rows

    def event(self, kind: str, subject: str, actor: Actor, payload: dict[str, Any]) -> Event:
        """Appends an event to the chain. It becomes visible with the change it stands for, or not at all."""
        if self.head is None:
            row = self.execute(_NEWEST).first()
            self.head = (row.seq, row.hash) if row else (0, GENESIS)
        seq, previous = self.head[0] + 1, self.head[1]
        fields = (seq, now(), kind, subject, actor.name, actor.kind, canonical_json(payload), previous)
        digest = event_hash(*fields)
        names = ("seq", "time", "kind", "subject", "actor", "actor_kind", "payload", "previous")
        self.execute(_ADD_EVENT, {**dict(zip(names, fields, strict=True)), "hash": digest})
        if kind in outbox.NOTIFIED:
            self.execute(insert(outbox.messages).values(seq=seq, kind=kind, subject=subject, created=fields[1], fanned=0))
        self.head = (seq, digest)
        return Event(*fields[:6], payload=payload, previous=previous, hash=digest)


class Store:
    """The open database of one project."""

    def __init__(self, url: str | URL, heads: Heads) -> None:
        self.engine = _engine(url)
        self.heads = heads
        # Threads of one process queue here, in order; waiting for the database would be polling.
        self._writing = threading.Lock()
        self._create()

    @classmethod
    def sqlite(cls, path: Path, heads: Heads) -> Store:
        """Opens, and where needed creates, a SQLite database file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(URL.create("sqlite", database=str(path)), heads)  # a path may hold ? and %

    def _create(self) -> None:
        try:
            with self.engine.connect() as connection:
                held = connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == "schema")).first()
        except DatabaseError as error:
            if not isinstance(error, OperationalError) or "no such table" not in str(error):
                raise _unreadable(self.engine, error) from error
            held = None
        if held is None:
            with self._begin() as connection:
                tables.metadata.create_all(connection)
                refuse_changes(connection, (*tables.APPEND_ONLY, *APPEND_ONLY_LATER))
                connection.exec_driver_sql(
                    f"INSERT OR IGNORE INTO meta (key, value) VALUES ('schema', '{tables.SCHEMA_VERSION}')"
                )
        elif held.value != str(tables.SCHEMA_VERSION):
            raise LedgerError(
                f"the database has schema {held.value}, this version of rlback knows schema {tables.SCHEMA_VERSION}",
                remedy="use the version of rlback that wrote it",
            )
        elif not {table.name for table in LATER} <= set(inspect(self.engine).get_table_names()):
            with self._begin() as connection:
                tables.metadata.create_all(connection, tables=list(LATER), checkfirst=True)
                label_tables.LABELS_BY_ANNOTATOR.create(connection, checkfirst=True)
                refuse_changes(connection, APPEND_ONLY_LATER)

    @contextmanager
    def _begin(self, synchronous: str = "FULL") -> Iterator[Connection]:
        with self._writing, self.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def passing(self) -> Iterator[Transaction]:
        """A write transaction for what decides nothing (leases): not forced to disk, and without events.

        A power cut may undo it; the database stays whole, and what is committed after it in full is not lost with it.
        """
        with self._begin("NORMAL") as connection:
            transaction = Transaction(connection)
            yield transaction
            if transaction.head is not None:
                raise LedgerError("an event belongs into a transaction that is forced to disk")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A write transaction. Leaving it with an exception undoes everything, its events included."""
        with self._begin() as connection:
            transaction = Transaction(connection)
            yield transaction
        if transaction.head is not None:
            # After the commit: a crash in between leaves heads behind by one transaction, which verify accepts.
            self.heads.append(*transaction.head)

    def rows(self, statement: Any) -> Sequence[Any]:
        """All rows of a query, read outside any write transaction.

        Raises:
            LedgerError: the database is damaged, lacks a table, or was locked for too long.
        """
        with self._reading() as connection:
            return connection.execute(statement).all()

    def first(self, statement: Any) -> Any:
        """The first row of a query, or None; raises as `rows` does."""
        with self._reading() as connection:
            return connection.execute(statement).first()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except DatabaseError as error:
            raise _unreadable(self.engine, error) from error

    def require_signed(self) -> None:
        """Refuses to build on a ledger whose newest signed event is gone; see `Heads.require_reached`."""
        column = tables.events.c
        self.heads.require_reached(
            lambda seq: row.hash if (row := self.first(select(column.hash).where(column.seq == seq))) else None
        )

    def events(self, subject: str | None = None) -> list[Event]:
        """Events in order, all of them or those of one subject.

        Raises:
            LedgerError: the payload of one is not the JSON that was written.
        """
        query = select(tables.events).order_by(tables.events.c.seq)
        if subject is not None:
            query = query.where(tables.events.c.subject == subject)
        return [
            Event(*row[:6], payload=self._payload(row), previous=row.previous, hash=row.hash) for row in self.rows(query)
        ]

    def _payload(self, row: Any) -> dict[str, Any]:
        with suppress(ValueError, TypeError, RecursionError):
            if isinstance(payload := json.loads(row.payload), dict):
                return payload
        raise LedgerError(
            f"event {row.seq} in {self.engine.url.database} was altered: its payload is no JSON object",
            remedy="restore the database from a backup",
        )

    def event_count(self) -> int:
        """How many events the ledger holds."""
        return int(self.rows(select(func.count()).select_from(tables.events))[0][0])

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def _engine(url: str | URL) -> Engine:
    kind = make_url(url).get_backend_name()
    if kind != "sqlite":
        raise LedgerError(
            f"the database URL {kind}://… is not SQLite, the only database this version writes",
            remedy="unset RLBACK_DATABASE_URL",
        )
    # AUTOCOMMIT leaves BEGIN and COMMIT to us: the driver's own rule begins transactions too late.
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"timeout": BUSY_MS / 1000}, pool_size=50)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            # Recursive triggers make REPLACE fire the DELETE trigger, so it cannot slip past append-only.
            "recursive_triggers=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _unreadable(engine: Engine, error: Exception) -> LedgerError:
    why = str(error.__cause__ or error)
    locked = "locked" in why or "busy" in why
    return LedgerError(
        f"the database {engine.url.database} cannot be read: {why}",
        remedy="another process holds it; end that one, or try again later"
        if locked
        else "restore it from a backup, or start a new project with `rlback init DIR`",
    )
