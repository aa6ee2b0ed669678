"""PostgreSQL: writers queue on an advisory lock that ends with their transaction, so the chain grows by one at a time.

Each statement after the lock sees all that was committed before it was had (READ COMMITTED; a stricter level would look
at the database as it was before the wait). A connection is read-only but between `begin` and its end. What a writer that
vanished leaves open is undone by the server after `IDLE_S`, and the next one goes on.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from rlback.errors import ConfigError, LedgerError
from rlback.ledger.address import FILE, VARIABLE, shown, without_secrets

#: One number for all that write to a ledger ("rlback" in ASCII); one project has a database to itself.
LOCK = 0x726C6261636B
WAIT_S = 30
IDLE_S = 120
CONNECT_S = 10
POOL, MORE = 10, 20
#: Of a whole session. Where the server acknowledges before it has written (synchronous_commit off), ours waits.
SESSION = (
    f"SET lock_timeout = '{WAIT_S}s'; SET idle_in_transaction_session_timeout = '{IDLE_S}s'; "
    "SET default_transaction_read_only = on; "
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_NO_TABLE, _NOT_ALLOWED, _READ_ONLY, _NO_SCHEMA = "42P01", "42501", "25006", "3F000"
_WAITED_TOO_LONG, _DISK_FULL = "55P03", "53100"
_LOST = ("08", "57P")  # classes: connection, and the server's or an administrator's end of it


class Postgresql:
    """A database of a PostgreSQL server."""

    def __init__(self, url: URL) -> None:
        self.where = shown(url)
        self._url = url
        arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}
        try:
            self.engine = create_engine(
                url, isolation_level="AUTOCOMMIT", connect_args={"application_name": "rlback", **arguments},
                pool_size=POOL, max_overflow=MORE, pool_pre_ping=True,
            )  # fmt: skip
        except ImportError:
            raise ConfigError(
                f"the database {self.where} needs the driver for PostgreSQL, which is not installed",
                remedy='pip install "rlback[postgres]"',
            ) from None
        event.listen(self.engine, "connect", _session)

    def begin(self, connection: Connection, *, forced: bool) -> None:
        """Begins to write once all earlier writers have ended; not `forced`, a crash of the server may undo it."""
        # One message, one answer: the lock is asked for as soon as the transaction has begun.
        connection.exec_driver_sql(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
            + ("" if forced else "SET LOCAL synchronous_commit = off; ")
            + f"SELECT pg_advisory_xact_lock({LOCK})"
        )

    def commit(self, connection: Connection) -> None:
        """Ends it; what was written stands.

        Raises:
            LedgerError: a statement had failed and nobody said so, which the server answers by undoing everything.
        """
        if _status(connection) != "INTRANS":
            raise LedgerError(f"a statement failed in {self.where}; nothing was saved", remedy="do it again")
        try:
            connection.exec_driver_sql("COMMIT")
        except OperationalError as error:
            if not _is_lost(error):
                raise
            raise LedgerError(
                f"the connection to {self.where} ended while it was saving; whether it was saved is not known",
                remedy="look before you do it again: `rlback status`",
            ) from None

    def rollback(self, connection: Connection) -> None:
        """Ends it; nothing of it stands. Where the connection is gone the server has done so."""
        if connection.invalidated:
            return
        try:
            if _status(connection) != "IDLE":
                connection.exec_driver_sql("ROLLBACK")
        except DBAPIError:
            connection.invalidate()

    def require_utf8(self, connection: Connection) -> None:
        """Refuses a database that cannot hold every text.

        Raises:
            LedgerError: its encoding is another one.
        """
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise LedgerError(
                f"the database {self.where} has the encoding {encoding}, not UTF8",
                remedy="make another one: createdb --encoding UTF8 --template template0 NAME",
            )

    def lacks_table(self, error: DBAPIError) -> bool:
        """Whether a statement failed because a table is not there."""
        return _code(error) == _NO_TABLE

    def refusal(self, error: DBAPIError) -> LedgerError | None:
        """What to say of a write that the database could not carry out, where that is known."""
        code = _code(error)
        if _is_lost(error):
            return self._away(error)
        if code == _WAITED_TOO_LONG:
            return LedgerError(
                f"the database {self.where} is busy: another process has been writing for {WAIT_S} s; nothing was saved",
                remedy="try again in a moment",
            )
        if code == _DISK_FULL:
            return LedgerError(
                f"the disk of the database server of {self.where} is full; nothing was saved", remedy="free some space there"
            )
        if code in (_NOT_ALLOWED, _READ_ONLY, _NO_SCHEMA):
            return LedgerError(
                f"the database {self.where} refuses to be written: {self._why(error)}",
                remedy="open it once as the role that owns its tables, and grant the rest as in docs/database.md",
            )
        return None

    def unreadable(self, error: DBAPIError) -> LedgerError:
        """What to say of a read that failed."""
        if _is_lost(error):
            return self._away(error)
        allowed = _code(error) != _NOT_ALLOWED
        return LedgerError(
            f"the database {self.where} cannot be read: {self._why(error)}",
            remedy="restore it from a backup" if allowed else "grant the role what docs/database.md lists",
        )

    def _away(self, error: DBAPIError) -> LedgerError:
        return LedgerError(
            f"the database {self.where} cannot be reached: {self._why(error)}",
            remedy=f"start its server, or correct the address ({VARIABLE}, or {FILE} in the project's directory)",
        )

    def _why(self, error: DBAPIError) -> str:
        """The driver's first line, without passwords."""
        lines = without_secrets(str(error.orig or error), self._url).strip().splitlines()
        return lines[0].strip() if lines else type(error.orig).__name__


def _session(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(SESSION)


def _status(connection: Connection) -> str:
    """Where the connection's transaction stands: IDLE, INTRANS, INERROR or UNKNOWN."""
    return str(connection.connection.dbapi_connection.info.transaction_status.name)  # type: ignore[union-attr]


def _code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _is_lost(error: DBAPIError) -> bool:
    code = _code(error)
    return error.connection_invalidated or code.startswith(_LOST) or (isinstance(error, OperationalError) and not code)
