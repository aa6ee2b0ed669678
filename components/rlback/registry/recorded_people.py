"""Whether users and the details of labels are those that the ledger's events recorded.

A row of `users` decides who may approve: somebody who can write to the database could make himself approver, or put
in a password of his own, without an event. Both are compared with what the events say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import inspect, select

from rlback.ledger.chain import Event
from rlback.ledger.console_tables import identities, label_details, users
from rlback.ledger.label_tables import imported_labels
from rlback.ledger.store import Store
from rlback.ledger.tables import labels
from rlback.records import digest_of
from rlback.registry.recorded import REMEDY, Finding, compare


def _users(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Roles, state and password of each account, replayed."""
    expected: dict[str, dict[str, Any]] = {}
    passwords: dict[str, str] = {}
    for event in recorded:
        room, _, act = event.kind.partition(".")
        if room != "user":
            continue
        said = event.payload
        if act == "added":
            expected[said["user"]] = {"roles": " ".join(said["roles"]), "state": "active"}
        elif act == "roles":
            expected[said["user"]]["roles"] = " ".join(said["roles"])
        elif act in ("active", "disabled"):
            expected[said["user"]]["state"] = act
        if act in ("added", "password"):
            passwords[said["user"]] = said["password"]
    rows = store.rows(select(users)) if _held(store, users.name) else []
    yield from compare(rows, lambda row: row.name, expected, "user")
    for row in rows:
        if row.name in passwords and digest_of(row.password) != passwords[row.name]:
            yield Finding(f"user {row.name}", "its password is not the one that was set", REMEDY)


def _identities(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Whom each account is tied to at a provider."""
    expected = {
        (e.payload["issuer"], e.payload["subject"]): {"user": e.payload["user"]} for e in recorded if e.kind == "user.tied"
    }
    rows = store.rows(select(identities)) if _held(store, identities.name) else []
    yield from compare(rows, lambda row: (row.issuer, row.subject), expected, "identity")


def _details(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Choice, strength, flags and rationale of each label given in the console."""
    expected = {
        (e.payload["comparison"], e.actor, e.payload["revision"]): e.payload["detail"]
        for e in recorded
        if e.kind == "label.given" and "detail" in e.payload
    }
    rows: Sequence[Any] = []
    if _held(store, label_details.name):
        columns = (labels.c.comparison, labels.c.annotator, labels.c.revision, label_details)
        imported = select(imported_labels.c.label)  # compared in `recorded_labels`
        joined = select(*columns).join(labels, label_details.c.label == labels.c.id)
        rows = store.rows(joined.where(label_details.c.label.not_in(imported)))
    names = [column.name for column in label_details.c if column.name != "label"]
    for row in rows:
        said = expected.pop((row.comparison, row.annotator, row.revision), None)
        if said != digest_of({name: getattr(row, name) for name in names}):
            yield Finding(f"label {row.label}", "its details are not those in the ledger", REMEDY)
    for comparison, annotator, _ in expected:
        yield Finding(f"label of {annotator} on {comparison}", "the table has lost its details", REMEDY)


def _held(store: Store, table: str) -> bool:
    return inspect(store.engine).has_table(table)


PEOPLE_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {
    "users": _users, "identities": _identities, "label details": _details,
}  # fmt: skip
