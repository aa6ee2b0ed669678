"""The database: one transaction for a change and its event.

A SQLite file by default, or a database of a PostgreSQL server (`ledger.address` says which). On both, writers come one
after another, and a busy database is waited for half a minute.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError

from rlback.errors import LedgerError
from rlback.ledger import console_tables, gate_tables, label_tables, outbox, tables
from rlback.ledger.address import parsed
from rlback.ledger.chain import GENESIS, Event, event_hash
from rlback.ledger.heads import Heads
from rlback.ledger.postgresql import Postgresql
from rlback.ledger.schema import create_tables, refuse_changes
from rlback.ledger.sqlite import Sqlite
from rlback.ledger.texts import refuse_unkeepable
from rlback.records import Actor, canonical_json

#: Tables that a database made by an earlier version lacks; they are added when it is opened.
LATER = (*console_tables.TABLES, *label_tables.LABEL_TABLES, *outbox.TABLES, *gate_tables.TABLES)
APPEND_ONLY_LATER = (*console_tables.APPEND_ONLY, *label_tables.LABEL_APPEND_ONLY, *gate_tables.APPEND_ONLY)
# Built once: composing a statement costs more than running it.
_NEWEST = select(tables.events.c.seq, tables.events.c.hash).order_by(tables.events.c.seq.desc()).limit(1)
_ADD_EVENT = insert(tables.events)
_ADD_SCHEMA = text("INSERT INTO meta (key, value) VALUES ('schema', :version) ON CONFLICT DO NOTHING")


def now() -> str:
    """The present moment, UTC, ISO 8601 to the millisecond. The order of events is `seq`, never this."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        address = url if isinstance(url, URL) else parsed(url, "the database's address")
        self.database: Sqlite | Postgresql = Sqlite(address) if address.get_backend_name() == "sqlite" else Postgresql(address)
        self.engine = self.database.engine
        refuse_unkeepable(self.engine)
        self.heads = heads
        # Threads of one process queue here, in order; waiting for the database would be polling.
        self._writing = threading.Lock()
        self._create()

    @classmethod
    def sqlite(cls, path: Path, heads: Heads) -> Store:
        """Opens, and where needed creates, a SQLite database file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(URL.create("sqlite", database=str(path)), heads)  # a path may hold ? and %

    @property
    def where(self) -> str:
        """The database as it may be printed."""
        return self.database.where

    def _create(self) -> None:
        try:
            with self.engine.connect() as connection:
                held = connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == "schema")).first()
        except DBAPIError as error:
            if not self.database.lacks_table(error):
                raise self.database.unreadable(error) from error
            held = None
        if held is None:
            with self._begin() as connection:
                if isinstance(self.database, Postgresql):
                    self.database.require_utf8(connection)
                create_tables(connection)
                refuse_changes(connection, (*tables.APPEND_ONLY, *APPEND_ONLY_LATER))
                connection.execute(_ADD_SCHEMA, {"version": str(tables.SCHEMA_VERSION)})
        elif held.value != str(tables.SCHEMA_VERSION):
            raise LedgerError(
                f"the database has schema {held.value}, this version of rlback knows schema {tables.SCHEMA_VERSION}",
                remedy="use the version of rlback that wrote it",
            )
        elif not {table.name for table in LATER} <= set(inspect(self.engine).get_table_names()):
            with self._begin() as connection:
                create_tables(connection, [table.name for table in LATER])
                label_tables.LABELS_BY_ANNOTATOR.create(connection, checkfirst=True)
                refuse_changes(connection, APPEND_ONLY_LATER)

    @contextmanager
    def _begin(self, *, forced: bool = True) -> Iterator[Connection]:
        try:
            with self._writing, self.engine.connect() as connection:
                try:
                    self.database.begin(connection, forced=forced)
                    yield connection
                    self.database.commit(connection)
                except BaseException:
                    self.database.rollback(connection)
                    raise
        except DBAPIError as error:
            refusal = self.database.refusal(error)
            if refusal is None:
                raise
            raise refusal from None

    @contextmanager
    def passing(self) -> Iterator[Transaction]:
        """A write transaction for what decides nothing (leases): not forced to disk, and without events.

        A power cut may undo it; the database stays whole, and what is committed after it in full is not lost with it.
        """
        with self._begin(forced=False) as connection:
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
        except DBAPIError as error:
            raise self.database.unreadable(error) from error

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
            f"event {row.seq} in {self.where} was altered: its payload is no JSON object",
            remedy="restore the database from a backup",
        )

    def event_count(self) -> int:
        """How many events the ledger holds."""
        return int(self.rows(select(func.count()).select_from(tables.events))[0][0])

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()
