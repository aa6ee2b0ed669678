"""SQLite: in WAL mode with full synchronisation. Writers queue on BEGIN IMMEDIATE; a busy database is waited for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from rlback.errors import LedgerError
from rlback.ledger.address import shown

BUSY_MS = 30_000


class Sqlite:
    """A SQLite file."""

    def __init__(self, url: URL) -> None:
        self.where = shown(url)
        # AUTOCOMMIT leaves BEGIN and COMMIT to us: the driver's own rule begins transactions too late.
        self.engine = create_engine(
            url, isolation_level="AUTOCOMMIT", connect_args={"timeout": BUSY_MS / 1000}, pool_size=50
        )
        event.listen(self.engine, "connect", _pragmas)

    def begin(self, connection: Connection, *, forced: bool) -> None:
        """Begins to write; not `forced`, a power cut may undo it."""
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if forced else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def commit(self, connection: Connection) -> None:
        """Ends it; what was written stands."""
        connection.exec_driver_sql("COMMIT")

    def rollback(self, connection: Connection) -> None:
        """Ends it; nothing of it stands."""
        if connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]  # else it never began
            connection.exec_driver_sql("ROLLBACK")

    def lacks_table(self, error: DBAPIError) -> bool:
        """Whether a statement failed because a table is not there."""
        return isinstance(error, OperationalError) and "no such table" in str(error)

    def refusal(self, error: DBAPIError) -> LedgerError | None:
        """What to say of a write that the database could not carry out, where that is known."""
        if (closed := self._not_writable()) is not None:
            return closed
        if not _is_busy(error):
            return None
        return LedgerError(
            f"the database {self.where} is busy: another process writes to it; nothing was saved", remedy="try again in a moment"
        )

    def unreadable(self, error: DBAPIError) -> LedgerError:
        """What to say of a read that failed."""
        if (closed := self._not_writable()) is not None:
            return closed
        return LedgerError(
            f"the database {self.where} cannot be read: {error.__cause__ or error}",
            remedy="another process holds it; end that one, or try again later"
            if _is_busy(error)
            else "restore it from a backup, or start a new project with `rlback init DIR`",
        )


    def _not_writable(self) -> LedgerError | None:
        file = Path(self.where)
        place = next((path for path in (file, file.parent) if path.exists() and not os.access(path, os.R_OK | os.W_OK)), None)
        if place is None:
            return None
        return LedgerError(
            f"the database {file} cannot be opened: {place} is not writable for you, and SQLite keeps a log beside its file, "
            "for those who only read too",
            remedy="give the command as the user the project belongs to, or make its directory writable; to look only, copy "
            "the project to a place of your own",
        )


def _is_busy(error: DBAPIError) -> bool:
    why = str(error.__cause__ or error)
    return "locked" in why or "busy" in why


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
