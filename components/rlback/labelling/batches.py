"""Batches of comparisons and the labels people or simulated annotators give them.

Labels are only ever added. Changing one's mind is a new revision; the newest revision of each annotator
counts. A label row and its ledger event are one transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json import dumps, loads
from typing import Any

from sqlalchemy import ColumnElement, insert, select

from rlback.errors import DataError
from rlback.labelling import statements as st
from rlback.labelling.quarantines import in_force
from rlback.labelling.slots import ensure, filled, missing, note_label
from rlback.ledger.console_tables import label_details
from rlback.ledger.label_tables import batch_rules
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import batches, comparisons, labels
from rlback.records import Actor, Comparison, Completion, Verdict, canonical_json, digest_of

#: Comparisons that watch over annotators (see `labelling.checks`); their labels count nowhere else.
HIDDEN = ("gold", "repeat")


@dataclass(frozen=True)
class Stored:
    """A comparison in the database."""

    id: str
    batch: str
    position: int
    comparison: Comparison


@dataclass(frozen=True)
class Label:
    """The counting label of one annotator on one comparison."""

    comparison: str
    annotator: str
    annotator_kind: str
    verdict: Verdict
    left_side: str
    time: str


def batch_id(campaign: str, round_: int, attempt: int) -> str:
    """`demo.r2`, `demo.r2a2`: round 2, second batch of round 2."""
    return f"{campaign}.r{round_}" + (f"a{attempt}" if attempt > 1 else "")


def add_batch(
    transaction: Transaction,
    campaign: str,
    round_: int,
    attempt: int,
    items: Sequence[Comparison],
    annotators: str,
    actor: Actor,
    overlap: int = 1,
    shares: tuple[float, float] = (0.0, 0.0),
) -> str:
    """Stores a batch and records it; returns its id.

    `overlap` is how many annotators each comparison is for; `shares` those of gold items and repeats.
    """
    id_ = batch_id(campaign, round_, attempt)
    return add_batch_as(transaction, id_, campaign, round_, attempt, items, annotators, actor, overlap, shares)


def add_batch_as(
    transaction: Transaction, id_: str, campaign: str, round_: int, attempt: int, items: Sequence[Comparison], annotators: str,
    actor: Actor, overlap: int = 1, shares: tuple[float, float] = (0.0, 0.0),
) -> str:
    """As `add_batch`, under an id of one's own. An attempt below 1 is a batch that was imported, closed from the start."""
    rows = [
        {
            "id": f"{id_}.{position}",
            "batch": id_,
            "position": position,
            "source": item.source,
            "prompt": item.prompt,
            "a": canonical_json(completion_tree(item.a)),
            "b": canonical_json(completion_tree(item.b)),
        }
        for position, item in enumerate(items)
    ]
    digest = digest_of(rows)
    transaction.execute(
        insert(batches).values(
            id=id_, campaign=campaign, round=round_, attempt=attempt, size=len(rows), digest=digest,
            annotators=annotators,
        )
    )  # fmt: skip
    transaction.execute(insert(comparisons), rows)
    rules: dict[str, Any] = {}
    if overlap > 1 or any(shares):
        regular = sum(item.source not in HIDDEN for item in items)
        target = round(regular * overlap / (1 - sum(shares)))
        rules = {"overlap": overlap, "gold_share": shares[0], "repeat_share": shares[1], "target": target}
        transaction.execute(insert(batch_rules).values(batch=id_, **rules))
    transaction.event(
        "batch.created", campaign, actor,
        {"batch": id_, "round": round_, "size": len(rows), "digest": digest, **({"rules": rules} if rules else {})},
    )  # fmt: skip
    return id_


def stored(store: Store, batch: str) -> list[Stored]:
    """The comparisons of a batch, in order."""
    rows = store.rows(select(comparisons).where(comparisons.c.batch == batch).order_by(comparisons.c.position))
    return [_stored(row) for row in rows]


def stored_one(store: Store, comparison: str) -> Stored | None:
    """One comparison by its id, or None."""
    row = store.first(select(comparisons).where(comparisons.c.id == comparison))
    return _stored(row) if row is not None else None


def completion_tree(completion: Completion) -> dict[str, Any]:
    """A completion as it is stored. Without answers it has no such key: so were all stored before there were any."""
    # By name: dataclasses.asdict would copy every token id for itself.
    tree: dict[str, Any] = {"text": completion.text, "ids": completion.ids, "finished": completion.finished}
    return tree | {"answers": completion.answers} if completion.answers else tree


def _stored(row: Any) -> Stored:
    def completion(text: str) -> Completion:
        fields = loads(text)
        answers = tuple(tuple(answer) for answer in fields.get("answers", ()))
        return Completion(fields["text"], tuple(fields["ids"]), fields["finished"], answers)

    item = Comparison(row.prompt, completion(row.a), completion(row.b), row.source)
    return Stored(row.id, row.batch, row.position, item)


def unlabelled(store: Store, batch: str, annotator: str | None = None) -> list[Stored]:
    """Comparisons of a batch that lack labels (that this annotator might give), in order; checks are left out.

    A label in quarantine is as good as none, and so is one that was taken back.
    """
    if annotator is None:
        waiting = {id_ for id_, left in missing(store, batch).items() if left}
    else:
        mine = {id_ for id_, those in filled(store, batch).items() if annotator in those}
        waiting = {id_ for id_ in missing(store, batch) if id_ not in mine}
    return [item for item in stored(store, batch) if item.id in waiting]


def open_count(store: Store, batch: str) -> int:
    """How many comparisons of a batch have fewer labels that count than annotators they are for."""
    return sum(left > 0 for left in missing(store, batch).values())


def record_label(
    store: Store,
    comparison: str,
    annotator: Actor,
    verdict: Verdict,
    left_side: str,
    seconds: float | None = None,
    attach: Callable[[Transaction, int], dict[str, Any]] | None = None,
) -> int:
    """Adds one label, or a new revision of the annotator's own; returns the revision (from 1).

    `attach` may write what belongs to the label in the same transaction: it is given the label's number, and what
    it returns is part of the label's event.

    Raises:
        DataError: there is no such comparison, or its batch takes no more labels.
    """
    with store.transaction() as transaction:
        batch = transaction.execute(st.BATCH_OF, {"comparison": comparison}).scalar()
        if batch is None:
            raise DataError(f"there is no comparison {comparison}", remedy="`rlback status` names the open batches", missing=True)
        campaign = require_open(transaction, batch, annotator)
        ensure(transaction, batch)
        mine = {"comparison": comparison, "annotator": annotator.name}
        revision = 1 + int(transaction.execute(st.REVISIONS, mine).scalar_one())
        values = _row(comparison, annotator, verdict, left_side, revision, seconds)
        number = transaction.execute(st.ADD_LABEL, values).inserted_primary_key[0]
        attached = attach(transaction, number) if attach else {}
        filled_now = note_label(transaction, batch, comparison, annotator.name, revision, values["time"])
        transaction.event(
            "label.given", campaign, annotator,
            {"comparison": comparison, "verdict": verdict, "left": left_side, "revision": revision, **attached},
        )  # fmt: skip
        if filled_now and transaction.execute(st.ANY_MISSING, {"batch": batch}).first() is None:
            transaction.event("batch.labelled", campaign, annotator, {"batch": batch})
    return revision


def require_open(transaction: Transaction, batch: str, annotator: Actor) -> str:
    """The campaign of a batch that this kind of annotator may label now.

    Raises:
        DataError: there is no such batch, another kind of annotator labels it, or it takes no more labels.
    """
    row = transaction.execute(st.BATCH_STATE, {"batch": batch}).first()
    if row is None:
        raise DataError(f"there is no batch {batch[:80]}", remedy="`rlback status` names the open ones", missing=True)
    if row.annotators != annotator.kind:
        raise DataError(f"batch {batch} is labelled by {row.annotators} annotators, not by {annotator.kind} ones")
    if row.attempt < 1:
        raise DataError(f"batch {batch} was imported; it takes no labels", remedy="import a file with more of them")
    if row.closed is not None:
        raise DataError(
            f"batch {batch} is closed: its labels are already part of the evidence at a gate",
            remedy="ask for more labels at the gate instead",
        )
    return str(row.campaign)


def record_simulated(
    transaction: Transaction,
    campaign: str,
    batch: str,
    annotator: Actor,
    verdicts: Sequence[tuple[str, Verdict, str]],
    lineage: dict[str, Any],
) -> None:
    """Adds the labels of a simulated annotator, (comparison id, verdict, left side) each, with one event."""
    rows = [_row(id_, annotator, verdict, left, 1, None) for id_, verdict, left in verdicts]
    _insert(transaction, rows)
    content = [[r["comparison"], r["verdict"], r["left_side"]] for r in rows]
    transaction.event(
        "labels.simulated", campaign, annotator,
        {"batch": batch, "labels": len(rows), "digest": digest_of(content), "annotator": lineage},
    )  # fmt: skip


def _row(
    comparison: str, annotator: Actor, verdict: str, left: str, revision: int, seconds: float | None
) -> dict[str, Any]:
    return {
        "comparison": comparison, "annotator": annotator.name, "annotator_kind": annotator.kind, "verdict": verdict,
        "left_side": left, "revision": revision, "seconds": seconds, "time": now(),
    }  # fmt: skip


def _insert(transaction: Transaction, rows: list[dict[str, Any]]) -> None:
    if rows:
        transaction.execute(insert(labels), rows)


def stands() -> ColumnElement[bool]:
    """As a condition on rows of `labels`: the annotator's newest one on its comparison, and not taken back."""
    later, detail = labels.alias("later"), label_details.alias("detail_of")
    newer = select(later.c.id).where(
        later.c.comparison == labels.c.comparison, later.c.annotator == labels.c.annotator, later.c.revision > labels.c.revision
    )
    undone = select(detail.c.label).where(detail.c.label == labels.c.id, detail.c.choice == "undo")
    return ~newer.exists() & ~undone.exists()


def counting_labels(where: Store | Transaction, batch: str, *, until: int | None = None) -> list[Label]:
    """The newest label of each annotator on each comparison of a batch, in order of position and annotator.

    Labels in quarantine are left out, those taken back, and those of checks; `until` says as of which row of the quarantines.
    """
    rows = where.rows(
        select(labels, comparisons.c.position)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .where(comparisons.c.batch == batch, comparisons.c.source.not_in(HIDDEN), stands())
        .order_by(comparisons.c.position, labels.c.annotator)
    )
    held = in_force(where, until)
    newest = [Label(r.comparison, r.annotator, r.annotator_kind, r.verdict, r.left_side, r.time) for r in rows]
    return [label for label in newest if held.over(label.annotator, batch, label.comparison) is None]


def flags_given(store: Store, counted: Sequence[Label]) -> dict[str, list[str]]:
    """Comparison -> the flags on these labels, one for each annotator who set it; comparisons without any are left out."""
    wanted = {(label.comparison, label.annotator) for label in counted}
    found: dict[str, list[str]] = {}
    for batch in sorted({comparison.rpartition(".")[0] for comparison, _ in wanted}):
        rows = store.rows(
            select(labels.c.comparison, labels.c.annotator, label_details.c.flags)
            .join(comparisons, labels.c.comparison == comparisons.c.id)
            .join(label_details, label_details.c.label == labels.c.id)
            .where(comparisons.c.batch == batch, label_details.c.flags != "[]", stands())
            .order_by(comparisons.c.position, labels.c.annotator)
        )
        for row in rows:
            if (row.comparison, row.annotator) in wanted:
                found.setdefault(row.comparison, []).extend(loads(row.flags))
    return found


def given(store: Store, batch: str) -> list[tuple[str, str]]:
    """Who has labelled what in a batch, in quarantine or not: (comparison, annotator), once each."""
    query = (
        select(labels.c.comparison, labels.c.annotator)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .where(comparisons.c.batch == batch)
        .distinct()
    )
    return [(row.comparison, row.annotator) for row in store.rows(query)]


def labels_digest(items: Sequence[Label]) -> str:
    """SHA-256 over who said what about which comparison; no times, so that it is the same on a repeated run."""
    return digest_of([[x.comparison, x.annotator, x.verdict, x.left_side] for x in items])


def write_labels(
    store: Store, batch_ids: Sequence[str], write: Callable[[bytes], object], *, until: int | None = None
) -> str:
    """Writes every counting label of some batches as JSON lines; returns the SHA-256 of the bytes written.

    A line holds the comparison in full, so that the file alone is enough to fit a reward model. Times are
    left out: the same labels give the same bytes. `until` as in `counting_labels`.
    """
    sha = hashlib.sha256()
    for batch in batch_ids:
        by_id = {item.id: item for item in stored(store, batch)}
        for label in counting_labels(store, batch, until=until):
            item = by_id[label.comparison].comparison
            line = dumps(
                {
                    "comparison": label.comparison, "prompt": item.prompt, "a": completion_tree(item.a),
                    "b": completion_tree(item.b), "source": item.source, "verdict": label.verdict, "annotator": label.annotator,
                    "annotator_kind": label.annotator_kind, "left": label.left_side,
                },
                sort_keys=True,
            )  # fmt: skip
            data = (line + "\n").encode()
            sha.update(data)
            write(data)
    return sha.hexdigest()
