"""Labels as files: everything a label holds, or preference pairs in the shapes that TRL and `rlback run` read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import select

from rlback.data.shapes import Message, conversation_of
from rlback.errors import DataError
from rlback.labelling.batches import HIDDEN, Stored, stored
from rlback.labelling.foreign import Said, argilla_record, label_studio_task, side_of, task_of
from rlback.labelling.quarantines import InForce, in_force
from rlback.ledger.console_tables import label_details
from rlback.ledger.store import Store
from rlback.ledger.tables import batches, comparisons, labels
from rlback.records import Actor

FORMS = ("raw", "trl", "trl-conversational", "label-studio", "argilla")


def export_batch(store: Store, batch: str, form: str, actor: Actor) -> bytes:
    """The labels of a batch as JSON lines (Label Studio: a list); what was exported, and by whom, is an event.

    `raw` has a line for every label ever given, revisions and all. The others have one for each decisive label that
    counts; ties, both bad and skips prefer nothing, so they are in `raw` only, and the event counts them. So are pairs
    with an empty completion, which readers of preference pairs refuse.

    Raises:
        DataError: there is no such batch or form.
    """
    if form not in FORMS:
        raise DataError(f"{form[:30]!r} is no form of export", remedy=f"one of {', '.join(FORMS)}")
    row = store.first(select(batches.c.campaign).where(batches.c.id == batch))
    if row is None:
        raise DataError(f"there is no batch {batch[:80]}", remedy="`rlback status` names the open ones", missing=True)
    items = {item.id: item for item in stored(store, batch)}
    given = store.rows(
        select(labels, *(column for column in label_details.c if column.name != "label"))
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(comparisons.c.batch == batch)
        .order_by(comparisons.c.position, labels.c.annotator, labels.c.revision)
    )
    newest = {(r.comparison, r.annotator): r.revision for r in given}
    held = in_force(store)
    lines: list[dict[str, Any]] = []
    counted = ("checks", "decisive", "tie", "both-bad", "skip", "empty", "quarantined")
    counts = {"labels": len(newest), **dict.fromkeys(counted, 0)}
    for label in given:
        counting = newest[label.comparison, label.annotator] == label.revision
        if items[label.comparison].comparison.source in HIDDEN:
            counts["checks"] += counting
            if form == "raw":
                lines.append({**_raw(items[label.comparison], label, False), "quarantine": None})
            continue
        over = held.over(label.annotator, batch, label.comparison)
        if counting and over is not None:
            counts["quarantined"] += 1
            counting = False
        if counting:
            said = label.choice if label.choice == "both-bad" else label.verdict
            counts["decisive" if said in ("a", "b") else said] += 1
        if form == "raw":
            lines.append({**_raw(items[label.comparison], label, counting), "quarantine": over and over.id})
        elif form.startswith("trl") and counting and label.verdict in ("a", "b"):
            item = items[label.comparison].comparison
            if item.a.text.strip() and item.b.text.strip():
                lines.append(_pair(items[label.comparison], label.verdict, form))
            else:
                counts["empty"] += 1
    if form in ("label-studio", "argilla"):
        lines = _tasks(items, given, newest, held, batch, form)
    content = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
    if form == "label-studio":
        content = (json.dumps(lines, sort_keys=True, indent=1) + "\n").encode()  # it reads a list, no lines
    with store.transaction() as transaction:
        transaction.event(
            "labels.exported", row.campaign, actor,
            {"batch": batch, "form": form, "lines": len(lines), "sha256": hashlib.sha256(content).hexdigest(), **counts},
        )  # fmt: skip
    return content


def _tasks(items: Any, given: Any, newest: Any, held: InForce, batch: str, form: str) -> list[dict[str, Any]]:
    """Every comparison as a task of another tool, with the labels that count; checks stay here."""
    said: dict[str, list[Said]] = {}
    tasks = {i: task_of(i, x.comparison.prompt, x.comparison.a, x.comparison.b) for i, x in items.items()}
    for label in given:
        counting = newest[label.comparison, label.annotator] == label.revision
        if counting and not held.over(label.annotator, batch, label.comparison):
            side = side_of(label.verdict, label.choice == "both-bad", tasks[label.comparison].left)
            if label.choice != "undo":
                said.setdefault(label.comparison, []).append(Said(side, label.annotator, label.seconds, label.time))
    make = label_studio_task if form == "label-studio" else argilla_record
    return [make(task, said.get(i, [])) for i, task in tasks.items() if items[i].comparison.source not in HIDDEN]


def _raw(item: Stored, label: Any, counting: bool) -> dict[str, Any]:
    kept = (
        "annotator", "annotator_kind", "verdict", "revision", "seconds", "time", "choice", "strength", "rationale", "guideline",
    )  # fmt: skip
    return {
        "comparison": item.id, "source": item.comparison.source, "prompt": item.comparison.prompt,
        "a": item.comparison.a.text, "b": item.comparison.b.text, "left": label.left_side, "counts": counting,
        "flags": json.loads(label.flags) if label.flags else [], **{name: getattr(label, name) for name in kept},
    }  # fmt: skip


def _pair(item: Stored, verdict: str, form: str) -> dict[str, Any]:
    sides = {"a": item.comparison.a.text, "b": item.comparison.b.text}
    chosen, rejected = sides[verdict], sides["b" if verdict == "a" else "a"]
    if form == "trl":
        return {"prompt": item.comparison.prompt, "chosen": chosen, "rejected": rejected}

    def said(role: str, text: str) -> list[Message]:
        return [{"role": role, "content": text}]

    return {
        "prompt": conversation_of(item.comparison.prompt) or said("user", item.comparison.prompt),
        "chosen": said("assistant", chosen), "rejected": said("assistant", rejected),
    }  # fmt: skip
