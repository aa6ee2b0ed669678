"""Who is shown what: leases on comparisons, the side order of each annotator, and labels given in the console.

A comparison is leased to one annotator for ten minutes, renewed while that one is active. A lease keeps two people
from doing the same work; it decides nothing. A label that comes after its lease is over is taken all the same: it is
a second opinion where somebody else has labelled meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update

from rlback.errors import DataError
from rlback.labelling.batches import Stored, record_label, require_open, stored_one
from rlback.labelling.choices import Judgement, judged
from rlback.labelling.guidelines import current_version
from rlback.labelling.quarantines import counts, in_force
from rlback.ledger.console_tables import label_details, showings
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import batches, comparisons, labels
from rlback.records import Actor, digest_of

LEASE_S = 600
INTERFACE = "console 1"
#: Among how many waiting comparisons the next one is drawn; keeps the query short in a batch of any size.
DRAW_FROM = 200
_KEY = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(frozen=True)
class Shown:
    """A comparison as one annotator sees it; `left` (a or b) stays on this side of the wire."""

    item: Stored
    left: str
    until: float


@dataclass(frozen=True)
class Given:
    """A label as stored: its revision, when, and whether it had been stored before (the same submission again)."""

    comparison: str
    revision: int
    time: str
    repeated: bool


@dataclass(frozen=True)
class Progress:
    """How far a batch is, and one annotator in it. `pace` is in labels a minute over their last ten, if any."""

    size: int
    labelled: int
    mine: int
    mine_today: int
    pace: float | None


def next_shown(store: Store, batch: str, annotator: Actor, without: Sequence[str] = (), *, second: bool = False) -> Shown | None:
    """Leases the annotator a comparison: one already leased to them, or the next free one; None where none is left.

    `without` are comparisons they have in hand. With `second`, one that others have labelled and they have not.

    Raises:
        DataError: there is no such batch, people do not label it, it is closed, or the annotator is in quarantine.
    """
    with store.transaction() as transaction:
        require_open(transaction, batch, annotator)
        _require_counted(transaction, batch, annotator)
        moment = time.time()
        id_ = _held(transaction, batch, annotator, without, moment, second) or _free(
            transaction, batch, annotator, without, moment, second
        )
        if id_ is None:
            return None
        left = _lease(transaction, id_, annotator, moment)
    item = stored_one(store, id_)
    assert item is not None
    return Shown(item, left, moment + LEASE_S)


def show_again(store: Store, comparison: str, annotator: Actor) -> Shown:
    """Leases the annotator one comparison by name, with the sides as they saw them before."""
    item = stored_one(store, comparison)
    if item is None:
        raise DataError(f"there is no comparison {comparison[:80]}", remedy="go back to the label page")
    with store.transaction() as transaction:
        require_open(transaction, item.batch, annotator)
        left, moment = _lease(transaction, comparison, annotator, time.time()), time.time()
    return Shown(item, left, moment + LEASE_S)


def renew(store: Store, comparison: str, annotator: Actor) -> bool:
    """Keeps a lease alive; False where it is over and somebody else has the comparison."""
    with store.transaction() as transaction:
        moment = time.time()
        if _others_lease(transaction, comparison, annotator, moment):
            return False
        where = (showings.c.comparison == comparison) & (showings.c.annotator == annotator.name)
        return bool(transaction.execute(update(showings).where(where).values(until=moment + LEASE_S)).rowcount)


def give(
    store: Store, comparison: str, annotator: Actor, choice: str, *, flags: Sequence[str] = (), rationale: str = "",
    seconds: float | None = None, key: str = "",
) -> Given:
    """Stores an annotator's choice as a label, or as the next revision of theirs.

    The same `key` again, as a browser sends it when no answer came, stores nothing more.

    Raises:
        DataError: it was never shown to them, the batch takes no labels, or the choice is not allowed.
    """
    if not _KEY.fullmatch(key):
        raise DataError("a submission needs a key of 8 to 64 letters or digits", remedy="reload the page")
    before = _given(store, key)
    if before is not None:
        return _again(before, comparison, annotator)
    shown = store.first(
        select(showings).where(showings.c.comparison == comparison, showings.c.annotator == annotator.name)
    )
    if shown is None:
        raise DataError(f"comparison {comparison[:80]} was never shown to {annotator.name}", remedy="go back to the label page")
    said = judged(choice, shown.left_side, flags, rationale)

    def attach(transaction: Transaction, label: int) -> dict[str, Any]:
        taken = transaction.execute(select(label_details.c.label).where(label_details.c.key == key)).first()
        if taken is not None:
            raise _Repeated
        detail = _detail(said, key, current_version(transaction))
        transaction.execute(insert(label_details).values(label=label, **detail))
        transaction.execute(
            update(showings)
            .where(showings.c.comparison == comparison, showings.c.annotator == annotator.name)
            .values(until=0.0)
        )
        return {"choice": said.choice, "detail": digest_of(detail)}

    try:
        revision = record_label(store, comparison, annotator, said.verdict, shown.left_side, seconds, attach)
    except _Repeated:
        return _again(_given(store, key), comparison, annotator)
    return Given(comparison, revision, now(), False)


def undo(store: Store, batch: str, annotator: Actor, key: str) -> Given | None:
    """Takes back the annotator's newest label of a batch by a new revision; None where there is nothing to undo."""
    newest = store.first(
        select(labels.c.comparison, label_details.c.choice)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(comparisons.c.batch == batch, labels.c.annotator == annotator.name)
        .order_by(labels.c.id.desc())
    )
    if newest is None or newest.choice == "undo":
        return None
    show_again(store, newest.comparison, annotator)
    return give(store, newest.comparison, annotator, "undo", key=key)


def progress(store: Store, batch: str, annotator: Actor) -> Progress:
    """How far the batch is, and this annotator in it."""
    size = store.first(select(batches.c.size).where(batches.c.id == batch))
    given = select(func.count(func.distinct(labels.c.comparison))).join(comparisons, labels.c.comparison == comparisons.c.id)
    mine = given.where(comparisons.c.batch == batch, labels.c.annotator == annotator.name)
    today = given.where(labels.c.annotator == annotator.name, labels.c.time >= now()[:10])
    last = store.rows(
        select(labels.c.seconds)
        .where(labels.c.annotator == annotator.name, labels.c.seconds > 0)
        .order_by(labels.c.id.desc())
        .limit(10)
    )
    total = sum(row.seconds for row in last)
    return Progress(
        int(size.size) if size else 0,
        int(store.rows(given.where(comparisons.c.batch == batch))[0][0]),
        int(store.rows(mine)[0][0]),
        int(store.rows(today)[0][0]),
        60 * len(last) / total if total else None,
    )


def _require_counted(transaction: Transaction, batch: str, annotator: Actor) -> None:
    """Nobody is given work that would count for nothing."""
    held = in_force(transaction).over(annotator.name, batch, "")
    if held is not None:
        raise DataError(
            f"your labels{f' in {batch}' if held.batch else ''} are in quarantine since {held.time[:10]}, and new ones would be",
            remedy=f"ask {held.by}, who put them there",
        )


class _Repeated(Exception):
    """The same submission was stored while this one was on its way."""


def _detail(said: Judgement, key: str, guideline: int) -> dict[str, Any]:
    return {
        "choice": said.choice, "strength": said.strength, "flags": json.dumps(said.flags), "rationale": said.rationale,
        "key": key, "interface": INTERFACE, "guideline": guideline,
    }  # fmt: skip


def _given(store: Store, key: str) -> Any:
    query = select(labels).join(label_details, label_details.c.label == labels.c.id).where(label_details.c.key == key)
    return store.first(query)


def _again(row: Any, comparison: str, annotator: Actor) -> Given:
    if row.comparison != comparison or row.annotator != annotator.name:
        raise DataError("this submission's key was used for another label", remedy="reload the page")
    return Given(row.comparison, row.revision, row.time, True)


def _others_lease(transaction: Transaction, comparison: str, annotator: Actor, moment: float) -> bool:
    query = select(showings.c.annotator).where(
        showings.c.comparison == comparison, showings.c.annotator != annotator.name, showings.c.until > moment
    )
    return transaction.execute(query).first() is not None


def _open_to(batch: str, annotator: Actor, without: Sequence[str], second: bool) -> Any:
    """Comparisons that this annotator might be shown, leases aside. An undone label leaves its comparison open to them."""
    newest = (
        select(func.max(labels.c.id)).where(labels.c.annotator == annotator.name).group_by(labels.c.comparison).scalar_subquery()
    )
    undone = select(label_details.c.label).where(label_details.c.choice == "undo")
    mine = select(labels.c.comparison).where(labels.c.id.in_(newest), labels.c.id.not_in(undone))
    anybody = select(labels.c.comparison).where(
        counts(batch), labels.c.annotator != annotator.name, labels.c.verdict != "skip" if second else labels.c.id > 0
    )
    query = select(comparisons.c.id).where(
        comparisons.c.batch == batch, comparisons.c.id.not_in(mine), comparisons.c.id.not_in(list(without))
    )
    return query.where(comparisons.c.id.in_(anybody) if second else comparisons.c.id.not_in(anybody))


def _held(
    transaction: Transaction, batch: str, annotator: Actor, without: Sequence[str], moment: float, second: bool
) -> str | None:
    query = (
        _open_to(batch, annotator, without, second)
        .join(showings, showings.c.comparison == comparisons.c.id)
        .where(showings.c.annotator == annotator.name, showings.c.until > moment)
        .order_by(showings.c.opened)
    )
    return transaction.execute(query.limit(1)).scalar()


def _free(
    transaction: Transaction, batch: str, annotator: Actor, without: Sequence[str], moment: float, second: bool
) -> str | None:
    leased = select(showings.c.comparison).where(showings.c.annotator != annotator.name, showings.c.until > moment)
    query = _open_to(batch, annotator, without, second)
    if not second:
        query = query.where(comparisons.c.id.not_in(leased))
    waiting = transaction.execute(query.order_by(comparisons.c.position).limit(DRAW_FROM)).scalars().all()
    # An order of each annotator's own, so that no comparison is always the last of a tired day.
    return min(waiting, key=lambda id_: hashlib.sha256(f"{annotator.name}\x1f{id_}".encode()).digest(), default=None)


def _lease(transaction: Transaction, comparison: str, annotator: Actor, moment: float) -> str:
    """The side shown left: drawn when this annotator first sees the comparison, and the same ever after."""
    where = (showings.c.comparison == comparison) & (showings.c.annotator == annotator.name)
    left = transaction.execute(select(showings.c.left_side).where(where)).scalar()
    if left is not None:
        transaction.execute(update(showings).where(where).values(until=moment + LEASE_S))
        return str(left)
    drawn = secrets.choice("ab")
    transaction.execute(
        insert(showings).values(
            comparison=comparison, annotator=annotator.name, left_side=drawn, opened=now(), until=moment + LEASE_S
        )
    )
    return drawn
