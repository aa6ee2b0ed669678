"""Carrying a whole ledger from one database into another, empty one: the way from SQLite to PostgreSQL, or back.

Rows are copied as they are, numbers and hashes included, so the signed heads beside the project fit the copy as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, func, insert, inspect, select

from rlback.errors import LedgerError
from rlback.ledger.chain import first_break
from rlback.ledger.store import Store
from rlback.ledger.tables import events, meta, metadata

ROWS_AT_ONCE = 500


def copy_ledger(source: Store, target: Store) -> dict[str, int]:
    """Copies every table; returns how many rows each had. Nobody writes to the source meanwhile.

    Raises:
        LedgerError: the target holds events already, or the source's chain does not hold.
    """
    # A transaction that writes nothing keeps other writers away until the copy stands.
    with source.transaction() as reading, target.transaction() as writing:
        if writing.execute(select(func.count()).select_from(events)).scalar_one():
            raise LedgerError(f"the database {target.where} holds a ledger already", remedy="give an empty one")
        broken = first_break(tuple(row) for row in reading.execute(select(events).order_by(events.c.seq)))
        if broken is not None:
            raise LedgerError(f"the ledger in {source.where} does not hold: {broken.why}", remedy="look with `rlback verify`")
        names = set(inspect(reading.connection).get_table_names())
        copied = {
            table.name: _copy(reading.connection, writing.connection, table)
            for table in metadata.sorted_tables
            if table.name in names and table is not meta
        }
        _count_on(writing.connection, metadata.sorted_tables)
    return copied


def _copy(source: Connection, target: Connection, table: Table) -> int:
    count = 0
    keys = list(table.primary_key.columns)
    for rows in source.execute(select(table).order_by(*keys)).mappings().partitions(ROWS_AT_ONCE):
        target.execute(insert(table), [dict(row) for row in rows])
        count += len(rows)
    return count


def _count_on(target: Connection, those: Iterable[Table]) -> None:
    """PostgreSQL numbers new rows by a sequence, which does not look at the rows that came with a number."""
    if target.dialect.name != "postgresql":
        return
    for table in those:
        column = table.autoincrement_column
        if column is not None and not column.foreign_keys:
            newest = select(func.max(column)).scalar_subquery()
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            target.execute(select(func.setval(sequence, func.coalesce(newest, 1), newest.is_not(None))))
