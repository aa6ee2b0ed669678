"""Practice: comparisons with known answers, shown to a new annotator first, each answered with what was expected and why.

What is said in practice is no label: no batch, snapshot or gate holds it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from rlback.errors import DataError
from rlback.labelling.choices import SCALE, judged
from rlback.ledger.label_tables import practice_answers, practice_items
from rlback.ledger.store import Store, now
from rlback.ledger.tables import batches
from rlback.records import Actor


@dataclass(frozen=True)
class PracticeItem:
    """One item as an annotator sees it; `left` and `answer` stay on this side of the wire until it is answered."""

    number: int
    of: int
    prompt: str
    a: str
    b: str
    left: str
    answer: str
    why: str


def standing(store: Store, batch: str, annotator: Actor) -> dict[str, int]:
    """How far an annotator is in the practice of a batch's campaign: items, answered, right."""
    campaign = _campaign(store, batch)
    items = len(store.rows(select(practice_items.c.number).where(practice_items.c.campaign == campaign)))
    given = store.rows(_answers(campaign, annotator)) if items else []
    return {"items": items, "answered": len(given), "right": sum(row.right for row in given)}


def next_item(store: Store, batch: str, annotator: Actor) -> PracticeItem | None:
    """The first item that is not answered, or None."""
    campaign = _campaign(store, batch)
    done = {row.number for row in store.rows(_answers(campaign, annotator))}
    items = store.rows(select(practice_items).where(practice_items.c.campaign == campaign).order_by(practice_items.c.number))
    return next((_shown(row, len(items), annotator) for row in items if row.number not in done), None)


def answer(store: Store, batch: str, annotator: Actor, number: int, choice: str) -> dict[str, Any]:
    """Stores what was said about an item and says what was expected; the first answer stands.

    Raises:
        DataError: there is no such item, or the choice is none of the scale or both bad.
    """
    campaign = _campaign(store, batch)
    row = store.first(
        select(practice_items).where(practice_items.c.campaign == campaign, practice_items.c.number == number)
    )
    if row is None:
        raise DataError(f"there is no practice item {number}", remedy="go back to the label page", missing=True)
    item = _shown(row, 0, annotator)
    if choice not in SCALE:
        raise DataError(f"{choice[:20]!r} is no choice in practice", remedy=f"choices: {', '.join(SCALE)}")
    right = judged(choice, item.left, (), "").verdict == item.answer
    with store.transaction() as transaction:
        held = transaction.rows(_answers(campaign, annotator))
        if number not in {one.number for one in held}:
            transaction.execute(
                insert(practice_answers).values(
                    campaign=campaign, annotator=annotator.name, number=number, choice=choice, right=int(right), time=now()
                )
            )
            items = len(transaction.rows(select(practice_items.c.number).where(practice_items.c.campaign == campaign)))
            if len(held) + 1 == items:
                total = sum(one.right for one in held) + right
                transaction.event("practice.finished", campaign, annotator, {"items": items, "right": total})
    sides = {"a": "left" if item.left == "a" else "right", "b": "right" if item.left == "a" else "left", "tie": "equal"}
    return {"right": right, "expected": sides[item.answer], "why": item.why}


def _answers(campaign: str, annotator: Actor) -> Any:
    column = practice_answers.c
    return select(practice_answers).where(column.campaign == campaign, column.annotator == annotator.name)


def _campaign(store: Store, batch: str) -> str:
    row = store.first(select(batches.c.campaign).where(batches.c.id == batch))
    if row is None:
        raise DataError(f"there is no batch {batch[:80]}", remedy="`rlback status` names the open ones", missing=True)
    return str(row.campaign)


def _shown(row: Any, of: int, annotator: Actor) -> PracticeItem:
    drawn = hashlib.sha256(f"{annotator.name}\x1f{row.campaign}\x1f{row.number}".encode()).digest()[0]
    return PracticeItem(row.number, of, row.prompt, row.a, row.b, "ab"[drawn % 2], row.answer, row.why)
