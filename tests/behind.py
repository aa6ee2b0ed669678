"""Another program at a project's database, which does what ours does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, event

from rlback.ledger.store import Store


def other_program(store: Store) -> Engine:
    """Connections to the same database that are not ours; each statement stands at once."""
    engine = create_engine(store.engine.url, isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA recursive_triggers=ON"))
    return engine


@contextmanager
def behind(store: Store, *unguarded: str) -> Iterator[Connection]:
    """Such a connection, after it has dropped the triggers against UPDATE of some tables."""
    engine = other_program(store)
    with engine.connect() as connection:
        for table in unguarded:
            of = f" ON {table}" if engine.dialect.name == "postgresql" else ""
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_no_update{of}")
        yield connection
    engine.dispose()
