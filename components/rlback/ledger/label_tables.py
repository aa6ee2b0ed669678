"""Tables about labels that were added after the first ones; `Store` adds them to an older database.

All of them are append-only: what changes is a row more.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table, Text

from rlback.ledger.tables import metadata

quarantines = Table(
    "quarantines",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("act", String, nullable=False),  # set | lifted
    Column("of", Integer, nullable=False),  # the row that is lifted; its own number where it is set
    Column("annotator", String, nullable=False),
    Column("batch", String, nullable=False),  # "" for every batch
    Column("comparison", String, nullable=False),  # "" for all of them
    Column("reason", Text, nullable=False),
    Column("actor", String, nullable=False),
    Column("time", String, nullable=False),
)

LABEL_TABLES = (quarantines,)
LABEL_APPEND_ONLY = ("quarantines",)
