"""The ledger's hash chain and its signed heads: pure functions over rows, no database.

Each event's hash covers its content and the hash before it, so that changing, removing or inserting a row
anywhere breaks every hash after it. Cutting the tail leaves a valid shorter chain; that is what signed heads,
kept in another file, are for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlback.records import canonical_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class Event:
    """One audited act. `time` is UTC, ISO 8601; `payload` holds only JSON values."""

    seq: int
    time: str
    kind: str
    subject: str
    actor: str
    actor_kind: str
    payload: dict[str, Any]
    previous: str
    hash: str


def event_hash(
    seq: int, time: str, kind: str, subject: str, actor: str, actor_kind: str, payload: str, previous: str
) -> str:
    """SHA-256 over the canonical JSON list of an event's fields; `payload` is its stored JSON text."""
    text = canonical_json([seq, time, kind, subject, actor, actor_kind, payload, previous])
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Break:
    """Where a chain stops holding, and why."""

    seq: int
    why: str


def first_break(rows: Iterable[Sequence[Any]]) -> Break | None:
    """The first event that does not hold, or None.

    `rows` are (seq, time, kind, subject, actor, actor_kind, payload text, previous, hash) in order of seq.
    """
    expected, previous = 1, GENESIS
    for row in rows:
        seq, stored_previous, stored_hash = row[0], row[7], row[8]
        if seq != expected:
            return Break(expected, f"event {expected} is missing (the next one present is {seq})")
        if stored_previous != previous:
            return Break(seq, f"event {seq} does not follow event {seq - 1}")
        if event_hash(*row[:8]) != stored_hash:
            return Break(seq, f"event {seq} was altered after it was written")
        expected, previous = expected + 1, stored_hash
    return None


def head_text(seq: int, hash_: str) -> bytes:
    """What a head's signature covers."""
    return canonical_json({"hash": hash_, "seq": seq}).encode()


def check_heads(lines: Iterable[str], hashes: dict[int, str], verify_signature: Any) -> Break | None:
    """Compares signed heads (JSON lines of seq, hash, signature) with the chain's hashes by seq.

    `verify_signature(message, signature_hex)` says whether a signature is ours. A line that is not a whole
    head, as a crash in the middle of writing leaves it, says nothing and is passed over.
    """
    for line in lines:
        try:
            head = json.loads(line)
            seq, hash_, signature = int(head["seq"]), str(head["hash"]), str(head["signature"])
        except (ValueError, KeyError, TypeError):
            continue
        if not verify_signature(head_text(seq, hash_), signature):
            return Break(seq, f"the signed head for event {seq} carries a wrong signature")
        if seq not in hashes:
            last = max(hashes, default=0)
            return Break(last + 1, f"the ledger ends at event {last}, but event {seq} was signed: its tail was cut")
        if hashes[seq] != hash_:
            return Break(seq, f"event {seq} is not the one that was signed: the chain was forked")
    return None
