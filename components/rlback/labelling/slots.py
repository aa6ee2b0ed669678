"""Counts kept beside the labels, so that a request of somebody who labels reads a few rows and never a whole batch.

`slots.missing` is how many more annotators a comparison is for; `tallies` how many comparisons each annotator has
labelled in a batch, by day. They decide nothing that is recorded: `rebuild` makes them anew from the labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import delete, func, insert, select

from rlback.labelling import statements as st
from rlback.labelling.quarantines import counts
from rlback.ledger.console_tables import label_details
from rlback.ledger.label_tables import batch_rules, checks, slots, tallies
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import batches, comparisons, labels


def overlap_of(where: Store | Transaction, batch: str) -> int:
    """How many annotators each comparison of a batch is for."""
    rows = where.rows(select(batch_rules.c.overlap).where(batch_rules.c.batch == batch))
    return int(rows[0].overlap) if rows else 1


def filled(where: Store | Transaction, batch: str) -> dict[str, set[str]]:
    """Who has labelled what, by comparison. Labels in quarantine are left out, and those that were taken back."""
    query = (
        select(labels.c.comparison, labels.c.annotator, label_details.c.choice)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(counts(batch), comparisons.c.batch == batch)
        .order_by(labels.c.id)
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in where.rows(query):
        if row.choice == "undo":
            found[row.comparison].discard(row.annotator)
        else:
            found[row.comparison].add(row.annotator)
    return found


def missing(where: Store | Transaction, batch: str) -> dict[str, int]:
    """How many more annotators each comparison of a batch is for, by what the labels say; checks are for as many as come."""
    wanted, given = overlap_of(where, batch), filled(where, batch)
    hidden = select(checks.c.comparison)
    query = select(comparisons.c.id).where(comparisons.c.batch == batch, comparisons.c.id.not_in(hidden))
    return {
        row.id: max(0, wanted - len(given.get(row.id, ()))) for row in where.rows(query.order_by(comparisons.c.position))
    }


def rebuild(transaction: Transaction, batch: str) -> None:
    """Makes the counts of a batch anew from its labels."""
    places = {
        row.id: row.position
        for row in transaction.rows(select(comparisons.c.id, comparisons.c.position).where(comparisons.c.batch == batch))
    }
    transaction.execute(delete(slots).where(slots.c.batch == batch))
    transaction.execute(delete(tallies).where(tallies.c.batch == batch))
    rows = [
        {"comparison": id_, "batch": batch, "position": places[id_], "missing": left}
        for id_, left in missing(transaction, batch).items()
    ]
    if rows:
        transaction.execute(insert(slots), rows)
    first = (
        select(labels.c.annotator, func.substr(labels.c.time, 1, 10).label("day"), func.count().label("n"))
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .where(comparisons.c.batch == batch, labels.c.revision == 1)
        .group_by(labels.c.annotator, "day")
    )
    given = [{"batch": batch, "annotator": r.annotator, "day": r.day, "labels": r.n} for r in transaction.rows(first)]
    if given:
        transaction.execute(insert(tallies), given)


def ensure(transaction: Transaction, batch: str) -> None:
    """Makes the counts of a batch that was stored before there were any."""
    if transaction.execute(st.HAS_SLOTS, {"batch": batch}).first() is None:
        rebuild(transaction, batch)


def rebuild_those(transaction: Transaction, those: Iterable[str]) -> None:
    """Makes the counts of several batches anew, those that people label."""
    query = select(batches.c.id).where(batches.c.id.in_(list(those)), batches.c.annotators == "human")
    for row in transaction.rows(query):
        rebuild(transaction, row.id)


def note_label(transaction: Transaction, batch: str, comparison: str, annotator: str, revision: int, time: str) -> bool:
    """Brings the counts up to a label that was just added; says whether it was the last its comparison lacked."""
    before = transaction.execute(st.MISSING, {"comparison": comparison}).scalar()
    rules = transaction.execute(st.RULES, {"batch": batch}).first()
    given: set[str] = set()
    for row in transaction.execute(st.FILLED, {"batch": batch, "comparison": comparison}).all():
        (given.discard if row.choice == "undo" else given.add)(row.annotator)
    left = max(0, (rules.overlap if rules else 1) - len(given))
    transaction.execute(st.SET_MISSING, {"of": comparison, "left": left})
    filled_now = bool(before) and not left
    if revision > 1:
        return filled_now
    key = {"batch": batch, "annotator": annotator, "day": time[:10]}
    if not transaction.execute(st.COUNT_UP, {"of": batch, "by": annotator, "on": time[:10]}).rowcount:
        transaction.execute(st.ADD_TALLY, {**key, "labels": 1})
    return filled_now
