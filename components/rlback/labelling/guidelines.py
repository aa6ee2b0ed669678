"""The guideline that annotators go by: versions of a text, the newest of which is stored with every label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select

from rlback.errors import DataError
from rlback.ledger.console_tables import guidelines
from rlback.ledger.store import Store, Transaction, now
from rlback.records import Actor, digest_of

TEXT_CHARS = 20_000


@dataclass(frozen=True)
class Guideline:
    """One version of the text."""

    version: int
    text: str
    author: str
    time: str


def current_version(where: Store | Transaction) -> int:
    """The number of the newest version, 0 where there is none."""
    query = select(func.max(guidelines.c.version))
    row: Any = where.first(query) if isinstance(where, Store) else where.execute(query).first()
    return int(row[0] or 0)


def list_guidelines(store: Store) -> list[Guideline]:
    """Every version, newest first."""
    rows = store.rows(select(guidelines).order_by(guidelines.c.version.desc()))
    return [Guideline(row.version, row.text, row.author, row.time) for row in rows]


def add_guideline(store: Store, text: str, author: Actor, *, after: int) -> Guideline:
    """Adds a version; `after` is the one its author read, so that nobody writes over another's unseen.

    Raises:
        DataError: the text is empty, too long or unchanged, or a newer version is there.
    """
    plain = text.replace("\r\n", "\n").strip()
    if not plain or len(plain) > TEXT_CHARS:
        raise DataError(f"a guideline has 1 to {TEXT_CHARS} characters", remedy="shorten it")
    with store.transaction() as transaction:
        version = current_version(transaction)
        if version != after:
            raise DataError(f"version {version} was saved meanwhile", remedy="read it, then make your change to it")
        held = transaction.execute(select(guidelines.c.text).where(guidelines.c.version == version)).scalar()
        if held == plain:
            raise DataError(f"the text is that of version {version}", remedy="change something")
        made = Guideline(version + 1, plain, author.name, now())
        transaction.execute(insert(guidelines).values(**vars(made)))
        transaction.event(
            "guideline.saved", "guideline", author, {"version": made.version, "text": digest_of(plain)}
        )
    return made
