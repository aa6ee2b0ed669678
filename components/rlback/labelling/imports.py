"""Labels from files: all of a file or nothing, each label attributed to an annotator, the file's digest in the ledger.

A label on a comparison of ours (Label Studio and Argilla carry its id) is added to it, as a new revision where its
annotator has said something else before. Everything else makes a batch of its own, whose comparisons are `given`: it is
at no gate, and in every snapshot and fit from the next one on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from rlback.accounts.names import check_name
from rlback.data.formats import RowProblem, Table, table_of
from rlback.data.shapes import SHAPE_COLUMNS, parse_row, render_messages, storable
from rlback.data.source import DEFAULT_LIMITS, open_source
from rlback.errors import ConfigError, DataError
from rlback.labelling.batches import add_batch_as, require_open
from rlback.labelling.choices import FLAGS, RATIONALE_CHARS
from rlback.labelling.foreign import Read, read_argilla, read_label_studio
from rlback.labelling.slots import note_label
from rlback.ledger.console_tables import label_details
from rlback.ledger.label_tables import imported_labels, imports
from rlback.ledger.store import Store, Transaction, now
from rlback.ledger.tables import batches, campaigns, comparisons, labels, stages
from rlback.records import Actor, Comparison, Completion, canonical_json, digest_of, seed_of

FORMS = ("preferences", "raw", "label-studio", "argilla")
_COLUMNS = SHAPE_COLUMNS | {
    "annotator", "verdict", "counts", "left", "seconds", "flags", "rationale", "choice", "comparison", "data", "annotations",
    "fields", "responses", "metadata", "id",
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What an import came to. `counts` are labels by verdict, and rows that make none by why."""

    number: int
    campaign: str
    form: str
    sha256: str
    batch: str
    labels: int
    counts: dict[str, int]


def import_labels(
    store: Store, path: Path, campaign: str, actor: Actor, *, form: str = "", annotator: str = "",
    permit: Callable[[Transaction], None] | None = None, name: str = "",
) -> Imported:
    """Reads a file and stores every label in it, in one transaction with its event.

    `form` "" tells it from the first row. `annotator` is whose labels they are where a row does not say. `name` is how
    errors call the file.

    Raises:
        DataError: the file was imported before, or names file and line of what is wrong; nothing is stored.
    """
    if form and form not in FORMS:
        raise DataError(f"{form[:30]!r} is no form of import", remedy=f"one of {', '.join(FORMS)}")
    if annotator:
        _name(annotator)
    shown = name or str(path)
    read: list[tuple[str, Read]] = []
    counts: Counter[str] = Counter()
    with open_source(path, DEFAULT_LIMITS) as source:
        table = table_of(source, _COLUMNS)
        for place, row in _rows(table, shown):
            try:
                form = form or _form_of(row)
                found = _READERS[form](row, counts)
                for one in found:
                    read.append((place, _attributed(one, annotator)))
            except RowProblem as problem:
                raise DataError(f"{shown}, {place}: {problem}", remedy=problem.remedy) from problem
        digest = source.sha256
    if not read:
        left = ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "no row"
        raise DataError(f"{shown} holds no label ({left})", remedy=f"forms understood: {', '.join(FORMS)}")
    with store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        return _store(transaction, campaign, actor, form, digest, read, counts, shown)


def list_imports(store: Store, campaign: str | None = None) -> list[dict[str, Any]]:
    """Imports, newest first."""
    query = select(imports).order_by(imports.c.number.desc())
    rows = store.rows(query if campaign is None else query.where(imports.c.campaign == campaign))
    return [{**row._mapping, "counts": json.loads(row.counts)} for row in rows]


def _rows(table: Table, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in table.rows:
        place = f"{table.unit} {row.number}"
        if row.value is None:
            raise DataError(f"{shown}, {place}: {row.problem}", remedy="correct the row")
        yield place, row.value


def _form_of(row: Mapping[str, Any]) -> str:
    if "data" in row and "annotations" in row:
        return "label-studio"
    if "fields" in row and "responses" in row:
        return "argilla"
    return "raw" if "verdict" in row else "preferences"


def _preference(row: Mapping[str, Any], counts: Counter[str]) -> list[Read]:
    """One row of preferences, plain or conversational, or of labelled comparisons."""
    parsed = parse_row(row, render_messages, DEFAULT_LIMITS.max_text_chars)
    if parsed.outcome == "prompts_differ":
        raise RowProblem("the two sides answer different prompts")
    first = "ab"[seed_of(parsed.prompt, parsed.chosen, parsed.rejected, "import") % 2]
    a, b = (parsed.chosen, parsed.rejected) if first == "a" else (parsed.rejected, parsed.chosen)
    verdict: Any = {"pair": first, "tie": "tie", "both_bad": "tie", "skip": "skip"}[parsed.outcome]
    who = storable("annotator", row["annotator"], 200) if row.get("annotator") is not None else ""
    return [Read("", parsed.prompt, a, b, "a", verdict, parsed.outcome == "both_bad", who, None)]


def _raw(row: Mapping[str, Any], counts: Counter[str]) -> list[Read]:
    """One line of a raw export. What does not count there (old revisions, quarantine, checks) does not here."""
    cap = DEFAULT_LIMITS.max_text_chars
    for name in ("prompt", "a", "b", "verdict", "annotator"):
        if name not in row:
            raise RowProblem(f"missing: {name!r}")
    prompt, a, b = (storable(name, row[name], cap) for name in ("prompt", "a", "b"))
    if row["verdict"] not in ("a", "b", "tie", "skip"):
        raise RowProblem(f"verdict must be a, b, tie or skip, not {str(row['verdict'])[:40]!r}")
    if row.get("counts") is False:
        counts["not counting where it comes from"] += 1
        return []
    flags = row.get("flags") or []
    if not isinstance(flags, list) or not all(flag in FLAGS for flag in flags):
        raise RowProblem(f"flags must be a list of {', '.join(FLAGS)}")
    rationale = storable("rationale", row.get("rationale") or "", RATIONALE_CHARS)
    seconds = row.get("seconds")
    good = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e6
    left = row.get("left", "a")
    if left not in ("a", "b"):
        raise RowProblem("left must be a or b")
    return [
        Read(str(row.get("comparison") or ""), prompt, a, b, left, row["verdict"], row.get("choice") == "both-bad",
             storable("annotator", row["annotator"], 200), float(seconds) if good else None, tuple(flags), rationale)
    ]  # fmt: skip


def _without_labels(reader: Callable[[Mapping[str, Any]], list[Read]]) -> Callable[..., list[Read]]:
    def read(row: Mapping[str, Any], counts: Counter[str]) -> list[Read]:
        found = reader(row)
        if not found:
            counts["without a label"] += 1
        return found

    return read


_READERS: dict[str, Callable[..., list[Read]]] = {
    "preferences": _preference,
    "raw": _raw,
    "label-studio": _without_labels(read_label_studio),
    "argilla": _without_labels(read_argilla),
}


def _attributed(one: Read, annotator: str) -> Read:
    who = one.annotator or annotator
    if not who:
        raise RowProblem("nothing says who labelled", remedy="add a column annotator, or give one name for all of the file")
    return Read(**{**asdict(one), "annotator": _name(who), "flags": tuple(one.flags)})


def _name(name: str) -> str:
    try:
        return check_name(name, "")
    except ConfigError as error:
        raise RowProblem(error.message, remedy="give another name") from None


def _store(
    transaction: Transaction, campaign: str, actor: Actor, form: str, sha256: str, read: Sequence[tuple[str, Read]],
    counts: Counter[str], shown: str,
) -> Imported:
    if transaction.execute(select(campaigns.c.name).where(campaigns.c.name == campaign)).first() is None:
        raise DataError(f"there is no campaign {campaign[:60]}", remedy="`rlback status` names those there are", missing=True)
    before = transaction.execute(
        select(imports).where(imports.c.campaign == campaign, imports.c.sha256 == sha256)
    ).first()
    if before is not None:
        raise DataError(
            f"{shown} was imported before: import {before.number} by {before.actor} at {before.time}",
            remedy="nothing is left to do; its labels are there",
        )
    number = int(transaction.execute(select(func.max(imports.c.number))).scalar() or 0) + 1
    ours, others = [], []
    for place, one in read:
        held = _held(transaction, campaign, one)
        if held is not None:
            ours.append((place, one, held))
        else:
            others.append((place, one))
    batch, made = _new_batch(transaction, campaign, actor, others) if others else ("", [])
    moment, stored = now(), []
    for place, one, comparison in (*ours, *made):
        said = "both bad" if one.both_bad else one.verdict
        revision = _revision(transaction, comparison, one)
        if revision is None:
            counts["unchanged"] += 1
            continue
        if comparison.rpartition(".")[0] != batch:
            try:
                require_open(transaction, comparison.rpartition(".")[0], Actor(one.annotator, "human"))
            except DataError as error:
                raise DataError(f"{shown}, {place}: {error.message}", remedy=error.remedy) from None
        counts[said] += 1
        stored.append(_add(transaction, number, comparison, one, revision, moment))
    if not stored:
        raise DataError(f"{shown}: every label in it is here already", remedy="nothing is left to do")
    transaction.execute(
        insert(imports).values(
            number=number, campaign=campaign, sha256=sha256, form=form, counts=canonical_json(dict(counts)),
            actor=actor.name, time=moment,
        )
    )  # fmt: skip
    transaction.execute(insert(imported_labels), [{"label": one["id"], "number": number} for one in stored])
    transaction.event(
        "labels.imported", campaign, actor,
        {"import": number, "file": sha256, "form": form, "batch": batch, "labels": len(stored), "counts": dict(counts),
         "digest": imported_digest(stored)},
    )  # fmt: skip
    return Imported(number, campaign, form, sha256, batch, len(stored), dict(counts))


def imported_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the labels of an import and what they say beyond their verdict."""
    keys = ("id", "comparison", "annotator", "verdict", "left_side", "revision", "choice", "flags", "rationale")
    return digest_of([[row[key] for key in keys] for row in sorted(rows, key=lambda row: int(row["id"]))])


def _held(transaction: Transaction, campaign: str, one: Read) -> str | None:
    """The comparison of this campaign that a row names, if its texts are the same."""
    if not one.comparison:
        return None
    row = transaction.execute(
        select(comparisons)
        .join(batches, comparisons.c.batch == batches.c.id)
        .where(comparisons.c.id == one.comparison, batches.c.campaign == campaign)
    ).first()
    if row is None:
        return None
    texts = (row.prompt, json.loads(row.a)["text"], json.loads(row.b)["text"])
    return one.comparison if texts == (one.prompt, one.a, one.b) else None


def imported_batch_id(campaign: str, round_: int, attempt: int) -> str:
    """`demo.r2i1`, `demo.r2i2`: the first and second batch imported in round 2, attempts 0 and -1."""
    return f"{campaign}.r{round_}i{1 - attempt}"


def _new_batch(
    transaction: Transaction, campaign: str, actor: Actor, others: Sequence[tuple[str, Read]]
) -> tuple[str, list[tuple[str, Read, str]]]:
    """A batch for comparisons that are not ours: one for each different prompt and two completions."""
    reached = transaction.execute(select(func.max(stages.c.round)).where(stages.c.campaign == campaign)).scalar() or 0
    least = transaction.execute(
        select(func.min(batches.c.attempt)).where(batches.c.campaign == campaign, batches.c.round == reached)
    ).scalar()
    attempt = min(0, (least if least is not None else 1) - 1)
    id_ = imported_batch_id(campaign, reached, attempt)
    places: dict[tuple[str, str, str], int] = {}
    for _, one in others:
        places.setdefault((one.prompt, one.a, one.b), len(places))
    items = [Comparison(p, Completion(a, (), True), Completion(b, (), True), "given") for p, a, b in places]
    add_batch_as(transaction, id_, campaign, reached, attempt, items, "human", actor)
    return id_, [(place, one, f"{id_}.{places[one.prompt, one.a, one.b]}") for place, one in others]


def _revision(transaction: Transaction, comparison: str, one: Read) -> int | None:
    """The revision this label would be; None where the annotator's newest one says the same."""
    newest = transaction.execute(
        select(labels.c.revision, labels.c.verdict, label_details.c.choice)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(labels.c.comparison == comparison, labels.c.annotator == one.annotator)
        .order_by(labels.c.revision.desc())
        .limit(1)
    ).first()
    if newest is None:
        return 1
    same = newest.verdict == one.verdict and (newest.choice == "both-bad") == one.both_bad and newest.choice != "undo"
    return None if same else int(newest.revision) + 1


def _add(
    transaction: Transaction, number: int, comparison: str, one: Read, revision: int, moment: str
) -> dict[str, Any]:
    values = {
        "comparison": comparison, "annotator": one.annotator, "annotator_kind": "human", "verdict": one.verdict,
        "left_side": one.left, "revision": revision, "seconds": one.seconds, "time": moment,
    }  # fmt: skip
    id_ = transaction.execute(insert(labels).values(**values)).inserted_primary_key[0]
    mild = {"a": 1, "b": -1, "tie": 0}.get(one.verdict) if not one.both_bad else None
    left = {"a": "left1", "b": "right1"} if one.left == "a" else {"a": "right1", "b": "left1"}
    choice = "both-bad" if one.both_bad else left.get(one.verdict, "equal" if one.verdict == "tie" else "skip")
    detail = {
        "choice": choice, "strength": mild, "flags": json.dumps(list(one.flags)), "rationale": one.rationale,
        "key": f"import-{number}-{id_}", "interface": f"import {number}", "guideline": 0,
    }  # fmt: skip
    transaction.execute(insert(label_details).values(label=id_, **detail))
    note_label(transaction, comparison.rpartition(".")[0], comparison, one.annotator, revision, moment)
    return {"id": id_, **values, **detail}
