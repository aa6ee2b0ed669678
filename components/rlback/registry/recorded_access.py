"""Whether the sessions and tokens that open the console are those that the ledger's events recorded.

A row in either lets whoever has its secret act as a user, an approver for one: somebody who can write to the database
could put in a row of his own and decide in another's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import inspect, select

from rlback.ledger.chain import Event
from rlback.ledger.console_tables import sessions, tokens
from rlback.ledger.store import Store
from rlback.registry.recorded import REMEDY, Finding, compare


def _tokens(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Whose each token is, what for, until when, and whether it was revoked; of older ones not the secret and the end."""
    expected: dict[str, dict[str, Any]] = {}
    for event in recorded:
        said = event.payload
        if event.kind == "token.made":
            expected[said["token"]] = {
                "user": event.actor, "label": said["label"], "scopes": " ".join(said["scopes"]), "revoked": 0,
                **({"digest": said["digest"], "expires": said["until"]} if "digest" in said else {}),
            }  # fmt: skip
        elif event.kind == "token.revoked":
            expected[said["token"]]["revoked"] = 1
    yield from compare(_rows(store, tokens), lambda row: row.id, expected, "token")


def _sessions(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Whose each session is and when it ends at the latest. One that is over has lost its row, which is no finding."""
    opened = [event.payload for event in recorded if event.kind == "session.opened"]
    said = {payload["session"]: (payload["user"], payload["until"]) for payload in opened if "session" in payload}
    # Of sessions older than this record nothing is said about their secret; they live for hours.
    older = {payload["user"] for payload in opened if "session" not in payload}
    for row in _rows(store, sessions):
        if said.get(row.digest) != (row.user, row.expires) and (row.digest in said or row.user not in older):
            yield Finding(f"session of {row.user}", "no event in the ledger opened it like that", REMEDY)


def _rows(store: Store, table: Any) -> Sequence[Any]:
    return store.rows(select(table)) if inspect(store.engine).has_table(table.name) else []


ACCESS_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {
    "tokens": _tokens, "sessions": _sessions,
}  # fmt: skip
