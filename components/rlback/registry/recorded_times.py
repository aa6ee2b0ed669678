"""Whether the moments that rows hold are those at which the ledger's events were written.

A row and its event are one transaction but ask the clock one after the other, so they may lie a little apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import inspect, select

from rlback.ledger.chain import Event
from rlback.ledger.console_tables import guidelines
from rlback.ledger.gate_tables import votes
from rlback.ledger.label_tables import quarantines
from rlback.ledger.store import Store
from rlback.ledger.tables import campaigns, checkpoints, decisions, gates, labels, stages, versions
from rlback.registry.recorded import REMEDY, Finding

#: Seconds between a row and its event; a transaction that takes longer keeps everybody from writing for as long.
APART_S = 60.0

Key = Callable[[Any], object]


def _said(*names: str) -> Key:
    return lambda event: tuple(event.payload.get(name) for name in names)


def _columns(*names: str) -> Key:
    return lambda row: tuple(getattr(row, name) for name in names)


#: (what, table, column, key of a row, events, key of an event)
_MOMENTS: tuple[tuple[str, Any, str, Key, tuple[str, ...], Key], ...] = (
    ("campaign", campaigns, "created", lambda row: row.name, ("campaign.started",), lambda event: event.subject),
    ("stage", stages, "finished", _columns("campaign", "round", "stage", "attempt"), ("stage.done",),
     lambda event: (event.subject, event.payload["round"], event.payload["stage"], event.payload["attempt"])),
    ("checkpoint", checkpoints, "created", lambda row: row.digest, ("checkpoint.saved",), lambda event: event.subject),
    ("version", versions, "created", _columns("policy", "version"), ("version.base", "version.candidate"),
     _said("policy", "version")),
    ("gate", gates, "opened", _columns("id"), ("gate.opened",), _said("gate")),
    ("decision at gate", decisions, "time", _columns("gate"), ("gate.decided",), _said("gate")),
    ("vote", votes, "time", _columns("gate", "approver"), ("gate.voted",), lambda event: (event.payload["gate"], event.actor)),
    ("label", labels, "time", _columns("comparison", "annotator", "revision"), ("label.given",),
     lambda event: (event.payload["comparison"], event.actor, event.payload["revision"])),
    ("guideline", guidelines, "time", _columns("version"), ("guideline.saved",), _said("version")),
    ("quarantine", quarantines, "time", _columns("id"), ("labels.quarantined",), _said("quarantine")),
    ("quarantine", quarantines, "time", _columns("id"), ("quarantine.lifted",), _said("row")),
)  # fmt: skip


def _times(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Each moment against that of the event; a row that no event made is found by the other checks."""
    held = set(inspect(store.engine).get_table_names())
    for what, table, column, of_row, kinds, of_event in _MOMENTS:
        moments = {of_event(event): event.time for event in recorded if event.kind in kinds}
        for row in store.rows(select(table)) if moments and table.name in held else ():
            key = of_row(row)
            if key in moments and not _near(getattr(row, column), moments[key]):
                name = " ".join(str(part) for part in key) if isinstance(key, tuple) else key
                yield Finding(f"{what} {name}", f"its {column} is not when the ledger recorded it", REMEDY)


def _near(held: str, recorded: str) -> bool:
    try:
        apart = datetime.fromisoformat(held) - datetime.fromisoformat(recorded)
        return abs(apart.total_seconds()) <= APART_S
    except (ValueError, TypeError):
        return False


TIME_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {"times": _times}
