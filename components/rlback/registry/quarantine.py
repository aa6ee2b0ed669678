"""Putting labels in quarantine and lifting it, with what that does to gates whose evidence they are.

An open gate whose counted labels change is superseded in the same transaction: nobody can decide on evidence that no
longer holds, and `rlback advance` measures the candidate anew and opens the next gate. A decision that was made stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from rlback.errors import DataError
from rlback.labelling.batches import counting_labels, labels_digest
from rlback.labelling.quarantines import Quarantine, in_force, list_quarantines, newest_row
from rlback.labelling.slots import rebuild_those
from rlback.ledger.label_tables import quarantines
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import batches, comparisons, gates, labels
from rlback.records import REASON_CHARS, Actor, words_of
from rlback.registry.gates import supersede

Permit = Callable[[Transaction], None]


@dataclass(frozen=True)
class Outcome:
    """A quarantine as set or lifted, how many labels it is about, and the gates it concerns.

    `superseded` are gates that were open; `decided` those that were decided on evidence with these labels, and stand.
    """

    quarantine: Quarantine
    labels: int
    superseded: tuple[str, ...]
    decided: tuple[str, ...]


def put_in(
    store: Store, annotator: str, actor: Actor, reason: str, *, batch: str = "", comparison: str = "",
    permit: Permit | None = None,
) -> Outcome:
    """Puts the labels of an annotator in quarantine: all of them, those in a batch, or the one on a comparison.

    Raises:
        DataError: no reason, no such labels, or they are in quarantine already.
    """
    text = _reason(reason, "a quarantine")
    if comparison:
        batch = comparison.rpartition(".")[0]
    with store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        given = _given(transaction, annotator, batch, comparison)
        if not given:
            where = f" on {comparison[:80]}" if comparison else f" in {batch[:80]}" if batch else ""
            what = f"there is no label of {annotator[:64]}{where}"
            raise DataError(what, remedy="the page of a batch lists its annotators", missing=True)
        held = in_force(transaction).over(annotator, batch, comparison)
        if held is not None:
            raise DataError(f"{held.scope}: in quarantine already, by {held.by} since {held.time}", remedy="lift that one first")
        number, moment = newest_row(transaction) + 1, now()
        made = Quarantine(number, annotator, batch, comparison, text, actor.name, moment)
        _add(transaction, made, "set", number, text, actor, moment)
        transaction.event(
            "labels.quarantined", _subject(transaction, made), actor,
            {"quarantine": number, "annotator": annotator, "batch": batch, "comparison": comparison, "labels": len(given),
             "reason": text},
        )  # fmt: skip
        rebuild_those(transaction, _batches_with(transaction, made))
        superseded, decided = _gates(transaction, made, actor, f"quarantine {number}: {made.scope}")
    return Outcome(made, len(given), superseded, decided)


def lift(store: Store, number: int, actor: Actor, reason: str, *, permit: Permit | None = None) -> Outcome:
    """Lifts a quarantine: its labels count again.

    Raises:
        DataError: no reason, or there is no such quarantine in force.
    """
    text = _reason(reason, "lifting a quarantine")
    with store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        held = next((q for q in list_quarantines(transaction) if q.id == number), None)
        if held is None:
            raise DataError(f"there is no quarantine {number}", remedy="`rlback labels quarantines` shows them", missing=True)
        if held.lifted is not None:
            raise DataError(
                f"quarantine {number} was lifted already, by {held.lifted['by']} at {held.lifted['time']}",
                remedy="nothing is left to do",
            )
        row, moment = newest_row(transaction) + 1, now()
        _add(transaction, held, "lifted", row, text, actor, moment)
        given = _given(transaction, held.annotator, held.batch, held.comparison)
        transaction.event(
            "quarantine.lifted", _subject(transaction, held), actor,
            {"quarantine": number, "row": row, "annotator": held.annotator, "labels": len(given), "reason": text},
        )  # fmt: skip
        rebuild_those(transaction, _batches_with(transaction, held))
        superseded, decided = _gates(transaction, held, actor, f"quarantine {number} was lifted: {held.scope}")
    done = Quarantine(**{**vars(held), "lifted": {"reason": text, "by": actor.name, "time": moment}})
    return Outcome(done, len(given), superseded, decided)


def supersede_if_changed(transaction: Transaction, gate: Any, actor: Actor, why: str) -> bool:
    """Supersedes an open gate whose counted labels are no longer those in its evidence; `gate` is its row.

    Raises nothing: a gate without labels, or whose labels are the same, stays as it is.
    """
    held = json.loads(gate.evidence)["labels"]
    counted = [
        label
        for batch in _batches(transaction, gate.campaign, gate.round, gate.attempt)
        for label in counting_labels(transaction, batch)
    ]
    if labels_digest(counted) == held["digest"]:
        return False
    supersede(transaction, gate.id, gate.campaign, actor, why)
    return True


def _gates(transaction: Transaction, one: Quarantine, actor: Actor, why: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    rounds = {
        (row.campaign, row.round)
        for row in transaction.rows(
            select(batches.c.campaign, batches.c.round).where(batches.c.id.in_(_batches_with(transaction, one)))
        )
    }
    superseded, decided = [], []
    for campaign, round_ in sorted(rounds):
        query = select(gates).where(gates.c.campaign == campaign, gates.c.round == round_).order_by(gates.c.attempt)
        for gate in transaction.rows(query):
            if gate.state == "open" and supersede_if_changed(transaction, gate, actor, why):
                superseded.append(gate.id)
            elif gate.state in ("approved", "declined"):
                decided.append(gate.id)
    return tuple(superseded), tuple(decided)


def _batches_with(transaction: Transaction, one: Quarantine) -> list[str]:
    if one.batch:
        return [one.batch]
    query = (
        select(comparisons.c.batch)
        .join(labels, labels.c.comparison == comparisons.c.id)
        .where(labels.c.annotator == one.annotator)
        .distinct()
    )
    return [row.batch for row in transaction.rows(query)]


def _batches(transaction: Transaction, campaign: str, round_: int, attempt: int) -> list[str]:
    query = (
        select(batches.c.id)
        .where(batches.c.campaign == campaign, batches.c.round == round_, batches.c.attempt.between(1, attempt))
        .order_by(batches.c.attempt)
    )
    return [row.id for row in transaction.rows(query)]


def _given(transaction: Transaction, annotator: str, batch: str, comparison: str) -> list[str]:
    query = select(labels.c.comparison).where(labels.c.annotator == annotator).distinct()
    if comparison:
        query = query.where(labels.c.comparison == comparison)
    elif batch:
        query = query.join(comparisons, labels.c.comparison == comparisons.c.id).where(comparisons.c.batch == batch)
    return [row.comparison for row in transaction.rows(query)]


def _subject(transaction: Transaction, one: Quarantine) -> str:
    """The campaign of the batch, or the annotator where it holds for every batch."""
    if not one.batch:
        return f"annotator:{one.annotator}"
    return str(transaction.execute(select(batches.c.campaign).where(batches.c.id == one.batch)).scalar_one())


def _add(
    transaction: Transaction, one: Quarantine, act: str, number: int, reason: str, actor: Actor, moment: str
) -> None:
    transaction.execute(
        insert(quarantines).values(
            id=number, act=act, of=one.id, annotator=one.annotator, batch=one.batch, comparison=one.comparison,
            reason=reason, actor=actor.name, time=moment,
        )
    )  # fmt: skip


def _reason(text: str, what: str) -> str:
    text = words_of(text)
    if not text:
        raise DataError(f"{what} needs a reason", remedy="say why")
    if len(text) > REASON_CHARS or "\x00" in text:
        raise DataError(f"a reason has at most {REASON_CHARS} characters and no NUL", remedy="shorten it")
    return text
