"""The outbox: what is to be told to the outside, written in the transaction of the change it tells of.

`Transaction.event` adds a row for each event of a kind in `NOTIFIED`. Whoever delivers (the console, `rlback outbox
deliver`, the tending flow) makes one row of `deliveries` a target of it, and keeps there how it went. Nothing is
decided by these rows: a message that is lost costs time, never a decision.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Integer, String, Table, Text

from rlback.ledger.tables import metadata

#: Events after which a campaign can go on without a person: the next flow run is started at once.
WAKING = frozenset({"gate.decided", "gate.expired", "batch.labelled", "rolled-back"})

#: Events that are told to webhooks.
NOTIFIED = WAKING | {
    "batch.created", "campaign.finished", "campaign.stopped", "checkpoint.deployed", "checkpoint.withdrawn",
    "gate.break-glass", "gate.opened", "gate.overdue", "gate.voted",
}  # fmt: skip

#: The target that is no webhook: the flow run that carries the campaign on.
PREFECT = "prefect"

messages = Table(
    "outbox",
    metadata,
    Column("seq", ForeignKey("events.seq"), primary_key=True, autoincrement=False),  # of the event it tells of
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("created", String, nullable=False),
    Column("fanned", Integer, nullable=False, index=True),  # 1 once its deliveries are written down
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", ForeignKey("outbox.seq"), primary_key=True),
    Column("target", String, primary_key=True),  # `prefect`, or a webhook's name
    Column("state", String, nullable=False, index=True),  # pending | delivered | given-up | needless
    Column("attempts", Integer, nullable=False, default=0),
    Column("due", Float, nullable=False),  # seconds since 1970; while one is on its way, when it counts as lost
    Column("error", Text, nullable=False, default=""),
)

TABLES = (messages, deliveries)
