"""Approving alone in an emergency: past four eyes and quorum, never past the evidence or the first decision.

It takes a permission of its own, a reason and a sentence typed out, and an account; it leaves an event of its own
kind, which the start page, the checkpoint's lineage and `rlback audit` show from then on.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from rlback.accounts.users import user_of
from rlback.errors import GateRefused, NotPermitted
from rlback.ledger.console_tables import users
from rlback.ledger.store import Store, Transaction
from rlback.records import Actor, words_of
from rlback.registry import four_eyes

PERMISSION = "break-glass"
LEAST_REASON = 20
KIND = "gate.break-glass"


def sentence(candidate: str) -> str:
    """What is to be typed."""
    return f"approve {candidate} alone"


def check_words(candidate: str, reason: str, confirm: str) -> None:
    """Raises GateRefused unless a reason of some length is given and the sentence is typed."""
    if len(words_of(reason)) < LEAST_REASON:
        what = f"breaking the glass needs a reason of at least {LEAST_REASON} characters"
        raise GateRefused(what, remedy="say what the emergency is")
    if confirm.strip() != sentence(candidate):
        raise GateRefused(f"to confirm, type: {sentence(candidate)}", remedy="type it exactly")


def record(transaction: Transaction, gate: str, campaign: str, candidate: dict[str, Any], actor: Actor, reason: str) -> None:
    """Checks the permission inside the transaction and writes the event.

    Raises:
        NotPermitted: the person has no account with the permission.
    """
    known = four_eyes.accounts_exist(transaction)
    row = transaction.execute(select(users).where(users.c.name == actor.name)).first() if known else None
    if row is None or PERMISSION not in user_of(row).permissions:
        raise NotPermitted(f"{actor.name} may not break the glass at gate {gate}", remedy="it takes the role emergency")
    transaction.event(KIND, campaign, actor, {"gate": gate, "reason": reason, "candidate": candidate["address"],
                                              "digest": candidate["digest"]})  # fmt: skip


def broken(store: Store) -> list[dict[str, Any]]:
    """Every time the glass was broken, newest first."""
    from rlback.ledger.tables import events

    numbers = [row.seq for row in store.rows(select(events.c.seq).where(events.c.kind == KIND))]
    if not numbers:
        return []
    found = [event for event in store.events() if event.kind == KIND]
    return [
        {"seq": e.seq, "time": e.time, "by": e.actor, "campaign": e.subject, "gate": e.payload["gate"],
         "candidate": e.payload["candidate"], "reason": e.payload["reason"]}
        for e in reversed(found)
    ]  # fmt: skip
