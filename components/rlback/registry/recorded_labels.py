"""Whether what was decided about labels is what the ledger's events recorded: quarantines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import select

from rlback.ledger.chain import Event
from rlback.ledger.label_tables import quarantines
from rlback.ledger.store import Store
from rlback.registry.recorded import Finding, compare


def _quarantines(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """A row that sets or lifts a quarantine decides which labels are learned from."""
    expected: dict[int, dict[str, Any]] = {}
    for event in recorded:
        said = event.payload
        if event.kind == "labels.quarantined":
            number = said["quarantine"]
            scope = {key: said[key] for key in ("annotator", "batch", "comparison")}
            expected[number] = {"act": "set", "of": number, **scope, "reason": said["reason"], "actor": event.actor}
        elif event.kind == "quarantine.lifted":
            held = expected[said["quarantine"]]
            expected[said["row"]] = {**held, "act": "lifted", "reason": said["reason"], "actor": event.actor}
    yield from compare(store.rows(select(quarantines)), lambda row: row.id, expected, "quarantine")


LABEL_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {"quarantines": _quarantines}
