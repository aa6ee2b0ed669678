"""Approvals by several people: which votes count, what is still missing.

A campaign's gate section may ask for `quorum`, a list of (role, count). An approval is then a vote until every rule
is met; the vote that meets the last rule is the decision. One person takes one place: whoever holds two roles does
not count twice. What a vote is worth is looked at when the decision falls: somebody who has lost the role by then, or
whom the four eyes exclude, does not count. A decline or a call for more labels needs one person only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, inspect, select

from rlback.accounts.users import User, user_of
from rlback.errors import GateRefused, NotPermitted
from rlback.ledger.console_tables import users
from rlback.ledger.gate_tables import votes
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import campaigns
from rlback.records import Actor
from rlback.registry import four_eyes

DECIDE = "decide"


@dataclass(frozen=True)
class Rule:
    """So many approvals by people of a role."""

    role: str
    count: int


def rules_of(run: Any, campaign: str) -> list[Rule]:
    """The rules of a campaign's gates; [] where one approval is enough. `run` executes a statement."""
    text = run(select(campaigns.c.config).where(campaigns.c.name == campaign)).scalar()
    section = json.loads(text).get("gate", {}) if text else {}
    return [Rule(rule["role"], rule["count"]) for rule in section.get("quorum") or ()]


def assigned(rules: Sequence[Rule], voters: Sequence[User]) -> list[str | None]:
    """Who takes each place of the rules in order (None: nobody yet), as many places taken as can be.

    Augmenting paths (Kuhn 1955): a voter gives up a place where another place fits as well.
    """
    places = [rule.role for rule in rules for _ in range(rule.count)]
    taken: list[int | None] = [None] * len(places)

    def seat(voter: int, seen: set[int]) -> bool:
        for place, role in enumerate(places):
            if role in voters[voter].roles and place not in seen:
                seen.add(place)
                held = taken[place]
                if held is None or seat(held, seen):
                    taken[place] = voter
                    return True
        return False

    for voter in range(len(voters)):
        seat(voter, set())
    return [voters[number].name if number is not None else None for number in taken]


def missing(rules: Sequence[Rule], voters: Sequence[User]) -> list[str]:
    """What is still needed, in words; [] where every rule is met."""
    places = [rule.role for rule in rules for _ in range(rule.count)]
    left = [role for role, name in zip(places, assigned(rules, voters), strict=True) if name is None]
    return [f"{left.count(role)} more by role {role}" for role in dict.fromkeys(left)]


def counting(run: Any, gate: str, campaign: str, round_: int, digest: str) -> list[User]:
    """The people whose votes at a gate count at this moment, first vote first."""
    rows = run(
        select(users, votes.c.evidence_digest)
        .join(votes, votes.c.approver == users.c.name)
        .where(votes.c.gate == gate)
        .order_by(votes.c.time, votes.c.approver)
    ).all()
    found = [user_of(row) for row in rows if row.evidence_digest == digest]
    return [
        user for user in found
        if DECIDE in user.permissions and four_eyes.objection(run, campaign, round_, user.name) is None
    ]  # fmt: skip


def vote(transaction: Transaction, gate: str, campaign: str, round_: int, digest: str, approver: Actor, reason: str) -> None:
    """Records one approval.

    Raises:
        NotPermitted: the person has no account with a role that decides.
        GateRefused: the person has voted here already.
    """
    known = four_eyes.accounts_exist(transaction)
    row = transaction.execute(select(users).where(users.c.name == approver.name)).first() if known else None
    if row is None or DECIDE not in user_of(row).permissions:
        raise NotPermitted(
            f"{approver.name} has no account that may decide, and gate {gate} needs several approvals by known people",
            remedy="rlback users add NAME --role approver",
        )
    held = select(votes.c.time).where(votes.c.gate == gate, votes.c.approver == approver.name)
    if (before := transaction.execute(held).scalar()) is not None:
        raise GateRefused(f"{approver.name} has approved at gate {gate} already, at {before}", remedy="others are waited for")
    transaction.execute(
        insert(votes).values(gate=gate, approver=approver.name, reason=reason, evidence_digest=digest, time=now())
    )
    transaction.event(
        "gate.voted", campaign, approver, {"gate": gate, "round": round_, "reason": reason, "evidence": digest}
    )


def standing(store: Store, gate: str, campaign: str, round_: int, digest: str) -> dict[str, Any] | None:
    """Rules, votes and what is missing at a gate, for showing; None where one approval is enough."""
    with store.engine.connect() as connection:
        rules = rules_of(connection.execute, campaign)
        if not rules:
            return None
        known = inspect(connection).has_table(users.name)  # else nobody has an account yet
        voters = counting(connection.execute, gate, campaign, round_, digest) if known else []
        given = connection.execute(select(votes).where(votes.c.gate == gate).order_by(votes.c.time)).all()
    counts = {user.name for user in voters}
    return {
        "rules": [{"role": rule.role, "count": rule.count} for rule in rules],
        "votes": [
            {"approver": v.approver, "reason": v.reason, "time": v.time, "counts": v.approver in counts} for v in given
        ],
        "missing": missing(rules, voters),
    }  # fmt: skip
