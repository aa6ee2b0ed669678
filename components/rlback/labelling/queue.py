"""Who is shown what: leases on comparisons, the side order of each annotator, and labels given in the console.

A comparison is leased to one annotator for ten minutes, renewed while that one is active. A lease keeps two people
from doing the same work; it decides nothing. A label that comes after its lease is over is taken all the same: it is
a second opinion where somebody else has labelled meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from rlback.errors import DataError
from rlback.labelling import statements as st
from rlback.labelling.batches import Stored, record_label, require_open, stored_one
from rlback.labelling.choices import Judgement, judged
from rlback.labelling.quarantines import in_force
from rlback.labelling.slots import ensure
from rlback.ledger.console_tables import showings
from rlback.ledger.store import Store, Transaction, now
from rlback.records import Actor, digest_of, seed_of

LEASE_S = 600
INTERFACE, TERMINAL = "console 1", "terminal"
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
    """How far a batch is in labels, and one annotator in it. `pace` is in labels a minute over their last ten, if any."""

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
    with store.passing() as transaction:
        require_open(transaction, batch, annotator)
        _require_counted(transaction, batch, annotator)
        moment = time.time()
        ensure(transaction, batch)
        id_ = _held(transaction, batch, annotator, without, moment, second)
        if id_ is None and (id_ := _free(transaction, batch, annotator, without, moment, second)) and not second:
            id_ = _check(transaction, batch, annotator) or id_
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
        raise DataError(f"there is no comparison {comparison[:80]}", remedy="go back to the label page", missing=True)
    with store.passing() as transaction:
        require_open(transaction, item.batch, annotator)
        left, moment = _lease(transaction, comparison, annotator, time.time()), time.time()
    return Shown(item, left, moment + LEASE_S)


def renew(store: Store, comparison: str, annotator: Actor) -> bool:
    """Keeps a lease alive; False where it is over and somebody else has the comparison."""
    with store.passing() as transaction:
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
    with store.engine.connect() as connection:
        before = connection.execute(st.GIVEN_WITH_KEY, {"key": key}).first()
        who = {"comparison": comparison, "annotator": annotator.name}
        left = None if before else connection.execute(st.SHOWING, who).scalar()
    if before is not None:
        return _again(before, comparison, annotator)
    if left is None:
        raise DataError(f"comparison {comparison[:80]} was never shown to {annotator.name}", remedy="go back to the label page")
    said = judged(choice, left, flags, rationale)

    def attach(transaction: Transaction, label: int) -> dict[str, Any]:
        if transaction.execute(st.KEY_TAKEN, {"key": key}).first() is not None:
            raise _Repeated
        detail = _detail(said, key, int(transaction.execute(st.GUIDELINE).scalar() or 0))
        transaction.execute(st.ADD_DETAIL, {"label": label, **detail})
        transaction.execute(st.LEASE, {"of": comparison, "by": annotator.name, "ends": 0.0})
        return {"choice": said.choice, "detail": digest_of(detail)}

    try:
        revision = record_label(store, comparison, annotator, said.verdict, left, seconds, attach)
    except _Repeated:
        with store.engine.connect() as connection:
            stored_now = connection.execute(st.GIVEN_WITH_KEY, {"key": key}).first()
        return _again(stored_now, comparison, annotator)
    return Given(comparison, revision, now(), False)


def undo(store: Store, batch: str, annotator: Actor, key: str) -> Given | None:
    """Takes back the annotator's newest label of a batch that still stands, by a new revision; None where none does.

    Again, it goes one further back. The same `key` again, as a browser sends it when no answer came, takes back no more.
    """
    with store.engine.connect() as connection:
        before = connection.execute(st.GIVEN_WITH_KEY, {"key": key}).first()
        newest = connection.execute(st.NEWEST_STANDING, {"batch": batch, "annotator": annotator.name}).scalar()
    if before is not None:
        return _again(before, before.comparison, annotator)
    if newest is None:
        return None
    show_again(store, newest, annotator)
    return give(store, newest, annotator, "undo", key=key)


def take_back(store: Store, comparison: str, annotator: Actor, left: str) -> None:
    """Takes back the label just given to a comparison at a terminal, as `undo` does in the console; `left` was shown left."""

    def attach(transaction: Transaction, label: int) -> dict[str, Any]:
        guideline = int(transaction.execute(st.GUIDELINE).scalar() or 0)
        detail = _detail(judged("undo", left, (), ""), secrets.token_hex(16), guideline, TERMINAL)
        transaction.execute(st.ADD_DETAIL, {"label": label, **detail})
        return {"choice": "undo", "detail": digest_of(detail)}

    record_label(store, comparison, annotator, "skip", left, 0.0, attach)


def progress(store: Store, batch: str, annotator: Actor) -> Progress:
    """How far the batch is, and this annotator in it. Counted in labels: a check looks like any other."""
    who = {"batch": batch, "annotator": annotator.name}
    with store.engine.connect() as connection:
        size = connection.execute(st.SIZE, {"batch": batch}).first()
        given = connection.execute(st.TALLY, {**who, "day": now()[:10]}).one()
        last = connection.execute(st.LAST_SECONDS, {"annotator": annotator.name}).scalars().all()
    whole = int(size.target or size.size) if size else 0
    pace = 60 * len(last) / sum(last) if sum(last) else None
    return Progress(whole, min(whole, int(given.labelled)), int(given.mine), int(given.today), pace)


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


def _detail(said: Judgement, key: str, guideline: int, interface: str = INTERFACE) -> dict[str, Any]:
    return {
        "choice": said.choice, "strength": said.strength, "flags": json.dumps(said.flags), "rationale": said.rationale,
        "key": key, "interface": interface, "guideline": guideline,
    }  # fmt: skip


def _again(row: Any, comparison: str, annotator: Actor) -> Given:
    if row.comparison != comparison or row.annotator != annotator.name:
        raise DataError("this submission's key was used for another label", remedy="reload the page")
    return Given(row.comparison, row.revision, row.time, True)


def _others_lease(transaction: Transaction, comparison: str, annotator: Actor, moment: float) -> bool:
    """Whether others hold as many leases on a comparison as it lacks labels."""
    left = transaction.execute(st.MISSING, {"comparison": comparison}).scalar()
    asked = {"comparison": comparison, "annotator": annotator.name, "moment": moment}
    return int(transaction.execute(st.OTHERS_LEASES, asked).scalar_one()) >= max(1, left or 0)


def _asked(batch: str, annotator: Actor, without: Sequence[str], moment: float) -> dict[str, Any]:
    return {"batch": batch, "annotator": annotator.name, "without": list(without), "moment": moment}


def _held(
    transaction: Transaction, batch: str, annotator: Actor, without: Sequence[str], moment: float, second: bool
) -> str | None:
    """A comparison leased to the annotator already."""
    found: str | None = transaction.execute(
        st.HELD_SECOND if second else st.HELD, _asked(batch, annotator, without, moment)
    ).scalar()
    return found


def _free(
    transaction: Transaction, batch: str, annotator: Actor, without: Sequence[str], moment: float, second: bool
) -> str | None:
    """A comparison that lacks labels and leases; with `second`, one that others have labelled."""
    asked = _asked(batch, annotator, without, moment)
    if second:
        del asked["moment"]
    return _first_for(annotator, transaction.execute(st.FREE_SECOND if second else st.FREE, asked).scalars().all())


def _first_for(annotator: Actor, waiting: Sequence[str]) -> str | None:
    # An order of each annotator's own, so that no comparison is always the last of a tired day.
    return min(waiting, key=lambda id_: hashlib.sha256(f"{annotator.name}\x1f{id_}".encode()).digest(), default=None)


def _check(transaction: Transaction, batch: str, annotator: Actor) -> str | None:
    """A gold item or a repeat, where the draw says that one is due and there is one this annotator has not seen."""
    rules = transaction.execute(st.RULES, {"batch": batch}).first()
    if rules is None or not rules.gold_share + rules.repeat_share:
        return None
    who = {"batch": batch, "annotator": annotator.name}
    before = transaction.execute(st.SEEN, who).scalar_one()
    # Which places are for checks depends on annotator and place alone, so that asking again gives no other draw.
    drawn = random.Random(seed_of("check", batch, annotator.name, before)).random()
    kind = st.GOLD if drawn < rules.gold_share else st.REPEAT if drawn < rules.gold_share + rules.repeat_share else None
    return _first_for(annotator, transaction.execute(kind, who).scalars().all()) if kind is not None else None


def _lease(transaction: Transaction, comparison: str, annotator: Actor, moment: float) -> str:
    """The side shown left: drawn when this annotator first sees the comparison, and the same ever after."""
    who = {"comparison": comparison, "annotator": annotator.name}
    left = transaction.execute(st.SHOWING, who).scalar()
    if left is not None:
        transaction.execute(st.LEASE, {"of": comparison, "by": annotator.name, "ends": moment + LEASE_S})
        return str(left)
    drawn = secrets.choice("ab")
    transaction.execute(st.ADD_SHOWING, {**who, "left_side": drawn, "opened": now(), "until": moment + LEASE_S})
    return drawn
