"""Comparisons that watch over annotators: gold items with a known answer, and repeats of what one has labelled.

Both are rows of a batch like any other, at positions that tell nothing, and nothing on the page differs. They are in
no gate, snapshot or fit: `counting_labels` leaves them out.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from rlback.data.formats import RowProblem, table_of
from rlback.data.shapes import storable
from rlback.data.source import DEFAULT_LIMITS, open_source
from rlback.errors import DataError
from rlback.labelling.batches import counting_labels, stored
from rlback.ledger.label_tables import checks, practice_items
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import batches, comparisons
from rlback.records import SYSTEM, Comparison, Completion, digest_of

ANSWERS = ("a", "b", "tie")
#: Gold items made of earlier comparisons: at least so many annotators, all of one mind.
LEAST_AGREEING = 2


@dataclass(frozen=True)
class GoldItem:
    """A comparison with its known answer, why it is that, and the comparison it was, if any."""

    comparison: Comparison
    answer: str
    why: str = ""
    of: str = ""


@dataclass(frozen=True)
class GoldFile:
    """The items of a file, in order, and its digest."""

    items: tuple[GoldItem, ...]
    sha256: str


@dataclass(frozen=True)
class Rules:
    """What a batch asks of its annotators; see `config.LabelsConfig`."""

    overlap: int = 1
    gold_share: float = 0.0
    repeat_share: float = 0.0


def read_gold(path: Path) -> GoldFile:
    """Reads {prompt, a, b, answer, why} rows; `answer` is a, b or tie, `why` may be left out.

    Raises:
        DataError: names file and line of what is wrong, or the file is empty or not there.
    """
    if not path.is_file():
        raise DataError(f"labels.gold_file: there is no file {path}", remedy="name it relative to the project")
    items: list[GoldItem] = []
    with open_source(path, DEFAULT_LIMITS) as source:
        table = table_of(source, {"prompt", "a", "b", "answer", "why"})
        for row in table.rows:
            try:
                if row.value is None:
                    raise RowProblem(row.problem or "unreadable")
                items.append(_gold(row.value))
            except RowProblem as problem:
                raise DataError(f"{path}, {table.unit} {row.number}: {problem}", remedy="correct the row") from problem
        digest = source.sha256
    if not items:
        raise DataError(f"{path} holds no gold item", remedy="give rows of {prompt, a, b, answer}")
    return GoldFile(tuple(items), digest)


def _gold(row: dict[str, Any]) -> GoldItem:
    cap = DEFAULT_LIMITS.max_text_chars
    if gone := [name for name in ("prompt", "a", "b", "answer") if name not in row]:
        raise RowProblem(f"missing: {gone[0]!r}")
    prompt, a, b = (storable(name, row[name], cap) for name in ("prompt", "a", "b"))
    if row["answer"] not in ANSWERS:
        raise RowProblem(f"answer must be one of {', '.join(ANSWERS)}, not {str(row['answer'])[:40]!r}")
    why = storable("why", row.get("why", ""), 2_000)
    return GoldItem(Comparison(prompt, Completion(a, (), True), Completion(b, (), True), "gold"), row["answer"], why)


def agreed_before(store: Store, campaign: str) -> list[GoldItem]:
    """Earlier comparisons of a campaign on which at least two annotators said a, or b, and nobody anything else."""
    found = []
    for row in store.rows(select(batches.c.id).where(batches.c.campaign == campaign).order_by(batches.c.id)):
        said: dict[str, list[str]] = defaultdict(list)
        for label in counting_labels(store, row.id):
            said[label.comparison].append(label.verdict)
        for item in stored(store, row.id):
            verdicts = said.get(item.id, [])
            if len(verdicts) >= LEAST_AGREEING and len(set(verdicts)) == 1 and verdicts[0] in ("a", "b"):
                old = item.comparison
                found.append(GoldItem(Comparison(old.prompt, old.a, old.b, "gold"), verdicts[0], of=item.id))
    return found


def with_checks(
    batch: str, items: Sequence[Comparison], gold: Sequence[GoldItem], rules: Rules, seed: int
) -> tuple[list[Comparison], list[dict[str, str]]]:
    """The comparisons of a batch with checks hidden among them, and the rows that say which they are.

    Without checks the items are as they were given. Otherwise their order is drawn anew, and with it all numbers.
    """
    rng = random.Random(seed)
    n_gold = min(len(gold), round(rules.gold_share * len(items)) or (1 if rules.gold_share else 0))
    # More repeats than will be shown: one can be shown only to who has labelled what it repeats.
    n_repeat = min(len(items), round(3 * rules.repeat_share * len(items)) or (1 if rules.repeat_share else 0))
    if not n_gold and not n_repeat:
        return list(items), []
    chosen = rng.sample(list(gold), n_gold)
    again = rng.sample(range(len(items)), n_repeat)
    kinds: list[tuple[str, int]] = [("item", i) for i in range(len(items))]
    kinds += [("gold", i) for i in range(n_gold)] + [("repeat", i) for i in again]
    rng.shuffle(kinds)
    place = {index: position for position, (kind, index) in enumerate(kinds) if kind == "item"}
    made: list[Comparison] = []
    rows = []
    for position, (kind, index) in enumerate(kinds):
        id_ = f"{batch}.{position}"
        if kind == "item":
            made.append(items[index])
        elif kind == "gold":
            made.append(chosen[index].comparison)
            rows.append({"comparison": id_, "kind": "gold", "of": chosen[index].of, "answer": chosen[index].answer})
        else:
            old = items[index]
            made.append(Comparison(old.prompt, old.a, old.b, "repeat"))
            rows.append({"comparison": id_, "kind": "repeat", "of": f"{batch}.{place[index]}", "answer": ""})
    return made, rows


def add_checks(transaction: Transaction, campaign: str, batch: str, rows: Sequence[dict[str, str]]) -> None:
    """Stores which comparisons of a batch are checks; the event holds their digest, not which they are."""
    if not rows:
        return
    transaction.execute(insert(checks), list(rows))
    transaction.event("checks.hidden", campaign, SYSTEM, {"batch": batch, "checks": len(rows), "digest": checks_digest(rows)})


def checks_digest(rows: Sequence[Any]) -> str:
    """SHA-256 over which comparisons are checks, and what their answers are."""
    return digest_of(sorted([r["comparison"], r["kind"], r["of"], r["answer"]] for r in rows))


def add_practice(transaction: Transaction, campaign: str, items: Sequence[GoldItem], sha256: str) -> None:
    """Stores a campaign's practice items once."""
    held = transaction.execute(select(practice_items.c.number).where(practice_items.c.campaign == campaign)).first()
    if held is not None or not items:
        return
    rows = [
        {"campaign": campaign, "number": n, "prompt": i.comparison.prompt, "a": i.comparison.a.text, "b": i.comparison.b.text,
         "answer": i.answer, "why": i.why}
        for n, i in enumerate(items, 1)
    ]  # fmt: skip
    transaction.execute(insert(practice_items), rows)
    transaction.event("practice.prepared", campaign, SYSTEM, {"items": len(rows), "file": sha256, "digest": digest_of(rows)})


def answers_of(store: Store, batch: str) -> dict[str, tuple[str, str, str]]:
    """The checks of a batch: comparison -> (kind, comparison it repeats, answer)."""
    query = select(checks).join(comparisons, checks.c.comparison == comparisons.c.id).where(comparisons.c.batch == batch)
    return {row.comparison: (row.kind, row.of, row.answer) for row in store.rows(query)}

