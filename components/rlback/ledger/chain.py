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

#: How far the newest signed head may lie behind the chain's end. A head is signed after the commit, so a kill in
#: between leaves out the events of one transaction: settling a round writes four, a rollback a few more.
MOST_UNSIGNED = 8


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
    """Where a chain stops holding, and why; `seq` is 0 where no event but the file of heads is damaged."""

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
        try:
            whole = event_hash(*row[:8]) == stored_hash
        except (TypeError, ValueError):  # a column holds bytes or no number, which we never write
            whole = False
        if not whole:
            return Break(seq, f"event {seq} was altered after it was written")
        expected, previous = expected + 1, stored_hash
    return None


def head_text(seq: int, hash_: str) -> bytes:
    """What a head's signature covers."""
    return canonical_json({"hash": hash_, "seq": seq}).encode()


def read_head(line: str) -> tuple[int, str, str] | None:
    """(seq, hash, signature) of a line of the heads' file, or None for one that a crash cut short, or a blank one.

    Raises:
        ValueError: the line is neither; nothing that we write, or that a crash makes of it, looks like it.
    """
    line = line.strip()
    cut = not line or (line.isascii() and line.startswith("{") and not line.endswith("}"))
    try:
        head = json.loads(line)
        return int(head["seq"]), str(head["hash"]), str(head["signature"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        if cut:
            return None
        raise ValueError("it is no signed head") from error


def check_heads(lines: Iterable[str], hashes: dict[int, str], verify_signature: Any) -> Break | None:
    """Compares signed heads (JSON lines of seq, hash, signature) with the chain's hashes by seq.

    `verify_signature(message, signature_hex)` says whether a signature is ours. A line that is not a whole
    head, as a crash in the middle of writing leaves it, says nothing and is passed over.
    """
    for number, line in enumerate(lines, 1):
        try:
            head = read_head(line)
        except ValueError as error:
            return Break(0, f"line {number} of the signed heads was altered: {error}")
        if head is None:
            continue
        seq, hash_, signature = head
        if not verify_signature(head_text(seq, hash_), signature):
            return Break(seq, f"the signed head for event {seq} carries a wrong signature")
        if seq not in hashes:
            last = max(hashes, default=0)
            return Break(last + 1, f"the ledger ends at event {last}, but event {seq} was signed: its tail was cut")
        if hashes[seq] != hash_:
            return Break(seq, f"event {seq} is not the one that was signed: the chain was forked")
    return None


def check_newest(lines: Sequence[str] | None, last: int) -> Break | None:
    """Whether heads reach the end of a chain of `last` events; None for `lines` says that there is no file.

    That a head lies beyond the chain is `check_heads`' to find. The heads of at most `MOST_UNSIGNED` events may
    be missing, and the file where the first event's own is; a kill leaves no more than that.
    """
    if lines is None:
        return Break(0, f"there are {last} events, but the file of signed heads is gone") if last > 1 else None
    newest = 0
    for line in lines:
        try:
            head = read_head(line)
        except ValueError:
            continue  # `check_heads` names it
        newest = max(newest, head[0] if head else 0)
    if last - newest > MOST_UNSIGNED:
        return Break(newest + 1, f"the newest signed head is that of event {newest}, but the ledger goes on to event {last}")
    return None
