"""Votes at gates whose campaign asks for several approvals. Append-only; a decision is made when enough of them count."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, String, Table, Text

from rlback.ledger.tables import metadata

votes = Table(
    "votes",
    metadata,
    Column("gate", ForeignKey("gates.id"), primary_key=True),
    Column("approver", String, primary_key=True),  # one person, one vote
    Column("reason", Text, nullable=False),
    Column("evidence_digest", String, nullable=False),
    Column("time", String, nullable=False),
)

TABLES = (votes,)
APPEND_ONLY = ("votes",)
