"""What the labels of a batch say about its annotators: agreement, sides, pace, contested comparisons."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

from sqlalchemy import select

from rlback.labelling.quarantines import in_force
from rlback.ledger.console_tables import label_details
from rlback.ledger.store import Store
from rlback.ledger.tables import comparisons, labels
from rlback.maths.agreement import Agreement, alpha, kappa, percent_agreement, with_interval
from rlback.maths.intervals import wilson
from rlback.records import seed_of

SCALE = (-2, -1, 0, 1, 2)
#: A label without a strength (given at a terminal, or simulated) stands at the mild end of its side.
MILD = {"a": 1, "tie": 0, "b": -1}
CONTESTED = 20


@dataclass(frozen=True)
class Rating:
    """One annotator's counting label, as rated: `category` a, b, tie, both-bad or skip; `strength` -2 to 2 or None."""

    comparison: str
    annotator: str
    kind: str
    verdict: str
    category: str
    strength: int | None
    left: str
    seconds: float | None
    flags: tuple[str, ...]
    quarantine: int | None = None  # the one it is in


def ratings(store: Store, batch: str) -> list[Rating]:
    """The newest label of each annotator on each comparison, with its details where there are any."""
    rows = store.rows(
        select(labels, label_details.c.choice, label_details.c.strength, label_details.c.flags)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(comparisons.c.batch == batch)
        .order_by(comparisons.c.position, labels.c.annotator, labels.c.revision)
    )
    held = in_force(store)
    newest: dict[tuple[str, str], Rating] = {}
    for row in rows:
        category = "both-bad" if row.choice == "both-bad" else row.verdict
        strength = row.strength if row.choice is not None else MILD.get(row.verdict)
        flags = tuple(json.loads(row.flags)) if row.flags else ()
        over = held.over(row.annotator, batch, row.comparison)
        newest[row.comparison, row.annotator] = Rating(
            row.comparison, row.annotator, row.annotator_kind, row.verdict, category, strength, row.left_side, row.seconds,
            flags, over and over.id,
        )  # fmt: skip
    return list(newest.values())


def quality(store: Store, batch: str) -> dict[str, Any]:
    """Everything the page shows, as plain values. Labels in quarantine are in an annotator's row and nowhere else."""
    everything = ratings(store, batch)
    given = [rating for rating in everything if rating.quarantine is None]
    nominal = _units(given, "category")
    ordinal = _units(given, "strength")
    seed = seed_of(batch, "agreement")
    by_comparison: dict[str, list[Rating]] = defaultdict(list)
    for rating in given:
        if rating.category != "skip":
            by_comparison[rating.comparison].append(rating)
    return {
        "labels": len(given),
        "quarantined": len(everything) - len(given),
        "comparisons": len({r.comparison for r in given}),
        "twice": sum(len(unit) >= 2 for unit in nominal),
        "alpha_nominal": asdict(with_interval(nominal, lambda units: alpha(units, "nominal"), seed)),
        "alpha_ordinal": asdict(with_interval(ordinal, lambda units: alpha(units, "ordinal", SCALE), seed)),
        "percent": asdict(with_interval(nominal, percent_agreement, seed)),
        "categories": dict(sorted(Counter(r.category for r in given).items())),
        "annotators": [_annotator(everything, by_comparison, name) for name in sorted({r.annotator for r in everything})],
        "pairs": _pairs(given),
        "contested": _contested(by_comparison),
    }


def _units(given: list[Rating], what: str) -> list[list[Any]]:
    """Ratings by comparison; skips, and for strengths what has none, are left out."""
    held: dict[str, list[Any]] = defaultdict(list)
    for rating in given:
        value = getattr(rating, what)
        if rating.category != "skip" and value is not None:
            held[rating.comparison].append(value)
    return list(held.values())


def _annotator(given: list[Rating], by_comparison: Mapping[str, list[Rating]], name: str) -> dict[str, Any]:
    own = [r for r in given if r.annotator == name]
    decisive = [r for r in own if r.verdict in ("a", "b")]
    left = wilson(sum(r.verdict == r.left for r in decisive), len(decisive))
    others = [
        (r.category, o.category)
        for r in own if r.category != "skip"
        for o in by_comparison[r.comparison] if o.annotator != name
    ]  # fmt: skip
    timed = [r.seconds for r in own if r.seconds]
    return {
        "annotator": name,
        "kind": own[0].kind,
        "labels": len(own),
        "quarantined": sum(r.quarantine is not None for r in own),
        "skips": sum(r.category == "skip" for r in own),
        "ties": sum(r.category == "tie" for r in own),
        "flags": sum(len(r.flags) for r in own),
        "left": asdict(left),
        # The interval, not the share: ten labels may well go left seven times.
        "leans": bool(decisive) and not left.low <= 0.5 <= left.high,
        "agrees": sum(a == b for a, b in others) / len(others) if others else None,
        "agrees_n": len(others),
        "median_seconds": median(timed) if timed else None,
    }


def _pairs(given: list[Rating]) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, str]] = defaultdict(dict)
    for rating in given:
        if rating.category != "skip":
            by_name[rating.annotator][rating.comparison] = rating.category
    found = []
    for one, other in list(combinations(sorted(by_name), 2))[:100]:
        shared = sorted(by_name[one].keys() & by_name[other].keys())
        result: Agreement = kappa([by_name[one][c] for c in shared], [by_name[other][c] for c in shared])
        same = sum(by_name[one][c] == by_name[other][c] for c in shared)
        found.append({"one": one, "other": other, "same": same, "kappa": asdict(result)})
    return found


def _contested(by_comparison: Mapping[str, list[Rating]]) -> list[dict[str, Any]]:
    """Comparisons whose annotators said different things, furthest apart first."""
    found = []
    for comparison, those in by_comparison.items():
        strengths = [r.strength for r in those if r.strength is not None]
        if len({r.category for r in those}) > 1:
            apart = max(strengths) - min(strengths) if strengths else 0
            found.append({"comparison": comparison, "apart": apart, "said": [f"{r.annotator}: {r.category}" for r in those]})
    return sorted(found, key=lambda f: (-f["apart"], f["comparison"]))[:CONTESTED]
