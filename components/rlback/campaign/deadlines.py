"""Gates whose deadline has passed: it is said once, and the campaign keeps waiting or declines. It never approves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from rlback.campaign import machine
from rlback.errors import GateRefused
from rlback.ledger.tables import events, gates
from rlback.project import Project
from rlback.records import SYSTEM
from rlback.registry.gates import Gate, decide, open_gates


def deadline_of(project: Project, gate: Gate) -> datetime | None:
    """When a decision at a gate is overdue; None where the campaign sets no deadline."""
    hours = machine.config_of(machine.load_campaign(project, gate.campaign)).gate.deadline_hours
    if hours is None:
        return None
    return datetime.fromisoformat(gate.opened.replace("Z", "+00:00")) + timedelta(hours=hours)


def say_overdue(project: Project, moment: datetime | None = None) -> list[str]:
    """Says of each open gate past its deadline that it is overdue, once, and declines where the campaign says so."""
    now, said = moment or datetime.now(UTC), []
    for gate in open_gates(project.store):
        row = machine.load_campaign(project, gate.campaign)
        config = machine.config_of(row)
        due = deadline_of(project, gate)
        if row.state != "active" or config.gate.approver != "human" or due is None or now < due:
            continue
        then = config.gate.on_deadline
        if not _said(project, gate):
            with project.store.transaction() as transaction:
                state = transaction.execute(select(gates.c.state).where(gates.c.id == gate.id)).scalar_one()
                if state != "open":
                    continue
                transaction.event(
                    "gate.overdue", gate.campaign, SYSTEM, {"gate": gate.id, "deadline": due.isoformat(), "then": then}
                )
            said.append(f"gate {gate.id} is overdue since {due.isoformat(timespec='minutes')}")
        if then == "decline":
            reason = f"nobody decided by {due.isoformat(timespec='minutes')}, the campaign's deadline"
            try:
                decide(project.store, gate.id, "decline", SYSTEM, digest=gate.digest, reason=reason)
                said.append(f"gate {gate.id} is declined: {reason}")
            except GateRefused:
                continue  # somebody decided in the same moment, and that stands
    return said


def _said(project: Project, gate: Gate) -> bool:
    query = select(events.c.payload).where(events.c.kind == "gate.overdue", events.c.subject == gate.campaign)
    return any(f'"gate":"{gate.id}"' in row.payload.replace(" ", "") for row in project.store.rows(query))
