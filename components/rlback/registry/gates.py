"""Gates: the point a candidate cannot pass without a recorded decision on the evidence that was shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from rlback.errors import GateRefused
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import decisions, gates
from rlback.records import Actor, canonical_json, digest_of, words_of
from rlback.registry import break_glass, four_eyes, quorum

GateVerdict = Literal["approve", "decline", "more-labels"]
STATE_AFTER: dict[str, str] = {"approve": "approved", "decline": "declined", "more-labels": "more-labels"}
LEAST_DIGEST = 12


@dataclass(frozen=True)
class Gate:
    """A gate with its evidence, and its decision where there is one."""

    id: str
    campaign: str
    round: int
    attempt: int
    state: str
    evidence: dict[str, Any]
    digest: str
    opened: str
    decision: dict[str, Any] | None


def gate_id(campaign: str, round_: int, attempt: int) -> str:
    """Like a batch's id: `demo.r2`, `demo.r2a2`."""
    return f"{campaign}.r{round_}" + (f"a{attempt}" if attempt > 1 else "")


def open_gate(
    transaction: Transaction, campaign: str, round_: int, attempt: int, evidence: dict[str, Any], actor: Actor
) -> tuple[str, str]:
    """Opens a gate on some evidence; returns its id and the evidence digest."""
    id_, digest = gate_id(campaign, round_, attempt), digest_of(evidence)
    transaction.execute(
        insert(gates).values(
            id=id_, campaign=campaign, round=round_, attempt=attempt, state="open",
            evidence=canonical_json(evidence), evidence_digest=digest, opened=now(),
        )
    )  # fmt: skip
    transaction.event("gate.opened", campaign, actor, {"gate": id_, "round": round_, "evidence": digest})
    return id_, digest


def find_gate(store: Store, id_: str) -> Gate:
    """A gate by its id.

    Raises:
        GateRefused: there is none; names those that are open.
    """
    row = store.first(select(gates).where(gates.c.id == id_))
    if row is None:
        waiting = [r.id for r in store.rows(select(gates.c.id).where(gates.c.state == "open"))]
        remedy = f"open gates: {', '.join(waiting)}" if waiting else "no gate is open now; see `rlback status`"
        raise GateRefused(f"there is no gate {id_}", remedy=remedy, missing=True)
    decision = store.first(select(decisions).where(decisions.c.gate == id_))
    return Gate(
        row.id, row.campaign, row.round, row.attempt, row.state, json.loads(row.evidence), row.evidence_digest,
        row.opened, dict(decision._mapping) if decision else None,
    )  # fmt: skip


def open_gates(store: Store) -> list[Gate]:
    """Gates that wait for a decision, oldest first."""
    rows = store.rows(select(gates.c.id).where(gates.c.state == "open").order_by(gates.c.opened))
    return [find_gate(store, row.id) for row in rows]


def only_open_gate(store: Store) -> Gate:
    """The gate that waits for a decision, where it is one.

    Raises:
        GateRefused: there is none, or there are several; names them.
    """
    waiting = open_gates(store)
    if not waiting:
        raise GateRefused("no gate is open now", remedy="see `rlback status`; `rlback gate show ID` shows any gate")
    if len(waiting) > 1:
        raise GateRefused(
            f"{len(waiting)} gates are open: {', '.join(gate.id for gate in waiting)}",
            remedy=f"name one, like `rlback gate show {waiting[0].id}`",
        )
    return waiting[0]


def decide(
    store: Store, id_: str, verdict: GateVerdict, approver: Actor, *, digest: str, reason: str,
    permit: Callable[[Transaction], None] | None = None, break_glass_confirmed: str | None = None,
) -> Gate:
    """Records a decision on the evidence with this digest (all 64 digits, or at least the first 12).

    `permit` may refuse it inside the transaction, by an error of its own. Where the campaign asks for several
    approvals, one of them is a vote, and the gate stays open until the last one (`quorum`). With the sentence that
    `break_glass` asks for, an approval goes past four eyes and quorum.

    Raises:
        NotPermitted: it is an approval by one's own hand; see `four_eyes`.
        GateRefused: the digest is not that of the evidence, the gate is decided or expired already, or there is no reason
            for a decline, a call for more labels, or an approval of what is below the campaign's threshold.
    """
    gate, reason = find_gate(store, id_), words_of(reason)
    if verdict != "approve" and not reason:
        raise GateRefused(f"a {verdict} at gate {id_} needs a reason", remedy='add --reason "…"')
    if verdict == "approve" and approver.kind == "human" and not reason.strip() and (short := _falls_short(gate)):
        raise GateRefused(f"{short}: an approval at gate {id_} all the same needs a reason", remedy='add --reason "…"')
    if len(digest) < LEAST_DIGEST or not gate.digest.startswith(digest.lower()):
        raise GateRefused(
            f"the digest {digest or '(empty)'} is not that of the evidence at gate {id_}: what you saw is not what "
            "would be decided on",
            remedy=f"look again: rlback gate show {id_}",
        )
    alone = break_glass_confirmed is not None
    if break_glass_confirmed is not None:
        if verdict != "approve":
            raise GateRefused(f"a {verdict} needs no glass broken", remedy="decide at the gate itself")
        break_glass.check_words(gate.evidence["candidate"]["address"], reason, break_glass_confirmed)
    more: dict[str, Any] = {}
    decides = True
    try:
        with store.transaction() as transaction:
            state = transaction.execute(select(gates.c.state).where(gates.c.id == id_)).scalar_one()
            if state != "open":
                raise _already(store, id_, state)
            if permit is not None:
                permit(transaction)
            if alone:
                candidate = gate.evidence["candidate"]
                break_glass.record(transaction, id_, gate.campaign, candidate, approver, reason)
                more = {"break_glass": True}
            elif verdict == "approve":
                four_eyes.require(transaction, id_, gate.campaign, gate.round, approver)
                rules = quorum.rules_of(transaction.execute, gate.campaign) if approver.kind == "human" else []
                if rules:
                    quorum.vote(transaction, id_, gate.campaign, gate.round, gate.digest, approver, reason)
                    voters = quorum.counting(transaction.execute, id_, gate.campaign, gate.round, gate.digest)
                    decides = not quorum.missing(rules, voters)
                    more = {"approved_by": sorted(user.name for user in voters)}
            if decides:
                _record(transaction, gate, verdict, approver, reason, more)
    except IntegrityError:
        raise _already(store, id_, "decided") from None
    return find_gate(store, id_)


def _falls_short(gate: Gate) -> str | None:
    """What keeps the candidate below the threshold that the campaign sets, or None."""
    found, least = gate.evidence.get("statistics"), gate.evidence["rule"]["at_least"]
    if not found or not found["win_rate"]["n"]:
        return "nobody compared the candidate with its start"
    value = found["win_rate"]["value"]
    return f"the win rate {value:.2f} is below {least:.2f}, the campaign's threshold" if value < least else None


def _record(
    transaction: Transaction, gate: Gate, verdict: str, approver: Actor, reason: str, more: dict[str, Any]
) -> None:
    transaction.execute(
        insert(decisions).values(
            gate=gate.id, verdict=verdict, approver=approver.name, approver_kind=approver.kind, reason=reason,
            evidence_digest=gate.digest, time=now(),
        )
    )  # fmt: skip
    transaction.execute(update(gates).where(gates.c.id == gate.id).values(state=STATE_AFTER[verdict]))
    transaction.event(
        "gate.decided", gate.campaign, approver,
        {"gate": gate.id, "round": gate.round, "verdict": verdict, "reason": reason, "evidence": gate.digest, **more},
    )  # fmt: skip


def expire(transaction: Transaction, id_: str, campaign: str, actor: Actor, reason: str) -> None:
    """Closes an open gate without a decision: nothing it stood for can be approved any more."""
    transaction.execute(update(gates).where(gates.c.id == id_, gates.c.state == "open").values(state="expired"))
    transaction.event("gate.expired", campaign, actor, {"gate": id_, "reason": reason})


def supersede(transaction: Transaction, id_: str, campaign: str, actor: Actor, reason: str) -> None:
    """Closes an open gate whose evidence no longer holds; the candidate is measured anew and another gate opens."""
    transaction.execute(update(gates).where(gates.c.id == id_, gates.c.state == "open").values(state="superseded"))
    transaction.event("gate.superseded", campaign, actor, {"gate": id_, "reason": reason})


def _already(store: Store, id_: str, state: str) -> GateRefused:
    decision = store.first(select(decisions).where(decisions.c.gate == id_))
    if decision is None and state == "superseded":
        return GateRefused(
            f"the evidence at gate {id_} has changed: labels went into quarantine or came out of it",
            remedy="`rlback advance` measures the candidate anew and opens another gate; look at that one",
        )
    if decision is None:
        return GateRefused(f"gate {id_} is {state}; it takes no decision any more", remedy="see `rlback status`")
    return GateRefused(
        f"gate {id_} is decided already: {decision.verdict} by {decision.approver} at {decision.time}. "
        "The first decision stands",
        remedy="carry on with `rlback advance`",
    )
