"""Whether what was decided about labels is what the ledger's events recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from sqlalchemy import inspect, select

from rlback.labelling.checks import checks_digest
from rlback.labelling.imports import imported_digest
from rlback.ledger.chain import Event
from rlback.ledger.console_tables import guidelines, label_details
from rlback.ledger.label_tables import batch_rules, checks, imported_labels, imports, practice_items, quarantines
from rlback.ledger.store import Store
from rlback.ledger.tables import labels
from rlback.records import digest_of
from rlback.registry.recorded import REMEDY, Finding, compare


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


def _checks(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Which comparisons are checks, how many annotators a comparison is for, and what practice holds."""
    hidden = {e.payload["batch"]: e.payload["digest"] for e in recorded if e.kind == "checks.hidden"}
    held: dict[str, list[dict[str, str]]] = {}
    for row in store.rows(select(checks)):
        held.setdefault(row.comparison.rpartition(".")[0], []).append(dict(row._mapping))
    for batch in sorted(hidden.keys() | held.keys()):
        if hidden.get(batch) != checks_digest(held.get(batch, [])):
            yield Finding(f"checks of {batch}", "they are not those that were hidden", REMEDY)
    rules = {e.payload["batch"]: e.payload["rules"] for e in recorded if e.kind == "batch.created" and "rules" in e.payload}
    yield from compare(store.rows(select(batch_rules)), lambda row: row.batch, rules, "rules of batch")
    prepared = {e.subject: e.payload["digest"] for e in recorded if e.kind == "practice.prepared"}
    items: dict[str, list[dict[str, Any]]] = {}
    for row in store.rows(select(practice_items).order_by(practice_items.c.campaign, practice_items.c.number)):
        items.setdefault(row.campaign, []).append(dict(row._mapping))
    for campaign in sorted(prepared.keys() | items.keys()):
        if prepared.get(campaign) != digest_of(items.get(campaign, [])):
            yield Finding(f"practice of {campaign}", "its items are not those that were prepared", REMEDY)


def _imports(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Labels that came from files, all of an import at once."""
    said = {e.payload["import"]: e for e in recorded if e.kind == "labels.imported"}
    expected = {
        number: {"campaign": e.subject, "sha256": e.payload["file"], "form": e.payload["form"], "actor": e.actor}
        for number, e in said.items()
    }
    yield from compare(store.rows(select(imports)), lambda row: row.number, expected, "import")
    held: dict[int, list[dict[str, Any]]] = {}
    if inspect(store.engine).has_table(label_details.name):
        details = [column for column in label_details.c if column.name != "label"]
        rows = store.rows(
            select(imported_labels.c.number, labels, *details)
            .join(labels, imported_labels.c.label == labels.c.id)
            .join(label_details, label_details.c.label == labels.c.id)
        )
        for row in rows:
            held.setdefault(row.number, []).append(dict(row._mapping))
    for number in sorted(said.keys() | held.keys()):
        if number not in said or said[number].payload["digest"] != imported_digest(held.get(number, [])):
            yield Finding(f"labels of import {number}", "they are not those in the ledger", REMEDY)


def _guidelines(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """What annotators were told to go by: every label names a version."""
    said = {
        e.payload["version"]: {"author": e.actor, "digest": e.payload["text"]} for e in recorded if e.kind == "guideline.saved"
    }
    rows = store.rows(select(guidelines)) if inspect(store.engine).has_table(guidelines.name) else []
    held = [SimpleNamespace(version=row.version, author=row.author, digest=digest_of(row.text)) for row in rows]
    yield from compare(held, lambda row: row.version, said, "guideline")


LABEL_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {
    "quarantines": _quarantines,
    "checks": _checks,
    "imports": _imports,
    "guidelines": _guidelines,
}
