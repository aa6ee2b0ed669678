"""Making tables, and the triggers that refuse to change what is append-only, in the words of either database.

On PostgreSQL texts are compared byte by byte (collation "C"), as SQLite does, whatever the database's own rules of order
are: what is sorted comes out the same on both. TRUNCATE, which SQLite has not, is refused too.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, MetaData, String, text

from rlback.ledger.tables import metadata

_FUNCTION = "rlback_refuse_change"
_REFUSE = f"""
CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is append-only', ERRCODE = 'restrict_violation';
END $$
"""
_TRIGGERS = text(
    "SELECT relname, tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
    "WHERE NOT tgisinternal AND pg_table_is_visible(tgrelid)"
)


def create_tables(connection: Connection, names: Iterable[str] | None = None) -> None:
    """Makes those of the tables that are not there yet, with their indexes; `names` None: all that are known."""
    known = _bytewise() if connection.dialect.name == "postgresql" else metadata
    chosen = None if names is None else [known.tables[name] for name in names]
    known.create_all(connection, tables=chosen, checkfirst=True)


def refuse_changes(connection: Connection, names: Iterable[str]) -> None:
    """Puts triggers on tables that refuse UPDATE and DELETE; again is no change."""
    if connection.dialect.name == "postgresql":
        _refuse_changes_on_postgresql(connection, list(names))
        return
    for name in names:
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS {name}_no_{verb.lower()} BEFORE {verb} ON {name} "
                f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
            )


def _refuse_changes_on_postgresql(connection: Connection, names: list[str]) -> None:
    # Looked at first: a role that may not make triggers need not, where the tables' owner has made them.
    held = {tuple(row) for row in connection.execute(_TRIGGERS)}
    wanted = [(name, verb, f"{name}_no_{verb.lower()}") for name in names for verb in ("UPDATE", "DELETE", "TRUNCATE")]
    missing = [(name, verb, trigger) for name, verb, trigger in wanted if (name, trigger) not in held]
    if missing:
        connection.exec_driver_sql(_REFUSE)
    for name, verb, trigger in missing:
        each = "STATEMENT" if verb == "TRUNCATE" else "ROW"
        connection.exec_driver_sql(
            f"CREATE TRIGGER {trigger} BEFORE {verb} ON {name} FOR EACH {each} EXECUTE FUNCTION {_FUNCTION}()"
        )
        # A session that calls itself a replica (session_replication_role) goes past triggers that are merely enabled.
        connection.exec_driver_sql(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}")


def _bytewise() -> MetaData:
    """The tables with every text in collation "C"; for making them only, as a cast may not name a collation."""
    copy = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(copy)
    for table in copy.tables.values():
        for column in table.columns:
            if isinstance(column.type, String):
                column.type = type(column.type)(collation="C")
    return copy
