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

from rlback.labelling.batches import stands
from rlback.labelling.checks import answers_of
from rlback.labelling.quarantines import in_force
from rlback.ledger.console_tables import label_details
from rlback.ledger.store import Store
from rlback.ledger.tables import comparisons, labels
from rlback.maths.agreement import Agreement, alpha, kappa_of, percent_agreement, with_interval
from rlback.maths.intervals import wilson
from rlback.records import seed_of

SCALE = (-2, -1, 0, 1, 2)
#: A label without a strength (given at a terminal, or simulated) stands at the mild end of its side.
MILD = {"a": 1, "tie": 0, "b": -1}
CONTESTED = 20
MOST_PAIRS = 20
RESAMPLES = 200
#: An annotator is called fast whose median is below this share of the others' median, over so many timed labels.
HASTE = 1 / 3
LEAST_TIMED = 5


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
    """The newest label of each annotator on each comparison, checks among them, with its details where there are any."""
    rows = store.rows(
        select(labels, label_details.c.choice, label_details.c.strength, label_details.c.flags)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .outerjoin(label_details, label_details.c.label == labels.c.id)
        .where(comparisons.c.batch == batch, stands())
        .order_by(comparisons.c.position, labels.c.annotator)
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


def quality(store: Store, batch: str, margins: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Everything the page shows, as plain values. Labels in quarantine are in an annotator's row and nowhere else.

    `margins` are the reward model's scores of side a less those of side b, by comparison, where they are known.
    """
    hidden = answers_of(store, batch)
    rated = ratings(store, batch)
    everything = [rating for rating in rated if rating.comparison not in hidden]
    given = [rating for rating in everything if rating.quarantine is None]
    nominal = _units(given, "category")
    ordinal = _units(given, "strength")
    seed = seed_of(batch, "agreement")
    by_comparison: dict[str, list[Rating]] = defaultdict(list)
    for rating in given:
        if rating.category != "skip":
            by_comparison[rating.comparison].append(rating)
    own: dict[str, list[Rating]] = defaultdict(list)
    for rating in rated:
        own[rating.annotator].append(rating)
    paces = {name: median(t) for name, those in own.items() if (t := [r.seconds for r in those if r.seconds])}
    annotators = []
    for name in sorted(own):
        row = _annotator([r for r in own[name] if r.comparison not in hidden], by_comparison, name, own[name][0].kind)
        others = [pace for other, pace in paces.items() if other != name]
        fast = len(row["seconds"]) >= LEAST_TIMED and others and paces[name] < HASTE * median(others)
        row |= {"fast": bool(fast), "median_seconds": paces.get(name), **_checked(own[name], hidden, margins)}
        del row["seconds"]
        annotators.append(row)
    return {
        "labels": len(given),
        "quarantined": len(everything) - len(given),
        "comparisons": len({r.comparison for r in given}),
        "twice": sum(len(unit) >= 2 for unit in nominal),
        "checks": dict(sorted(Counter(kind for kind, _, _ in hidden.values()).items())),
        "alpha_nominal": asdict(with_interval(nominal, lambda units, w: alpha(units, "nominal", weights=w), seed)),
        "alpha_ordinal": asdict(with_interval(ordinal, lambda units, w: alpha(units, "ordinal", SCALE, w), seed)),
        "percent": asdict(with_interval(nominal, percent_agreement, seed)),
        "categories": dict(sorted(Counter(r.category for r in given).items())),
        "annotators": annotators,
        "pairs": _pairs(given),
        "contested": _contested(by_comparison),
        "against_model": _against_model(by_comparison, margins),
    }


def _checked(own: list[Rating], hidden: Mapping[str, Any], margins: Mapping[str, float] | None) -> dict[str, Any]:
    """How an annotator did on hidden checks, and how often the reward model says the same; Wilson intervals."""
    said = {r.comparison: r.verdict for r in own if r.category != "skip"}
    gold = [said[c] == answer for c, (kind, _, answer) in hidden.items() if kind == "gold" and c in said]
    again = [said[c] == said[of] for c, (kind, of, _) in hidden.items() if kind == "repeat" and c in said and of in said]
    modelled = [
        (margins[c] > 0) == (verdict == "a")
        for c, verdict in said.items()
        if margins and c in margins and margins[c] and verdict in ("a", "b")
    ]

    def share(those: list[bool]) -> dict[str, Any] | None:
        return asdict(wilson(sum(those), len(those))) if those else None

    return {"gold": share(gold), "self": share(again), "model": share(modelled)}


def _against_model(by_comparison: Mapping[str, list[Rating]], margins: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Comparisons on which most annotators prefer the side that the reward model scores lower, its surest first."""
    found = []
    for comparison, those in by_comparison.items():
        margin = (margins or {}).get(comparison, 0.0)
        towards_a = sum({"a": 1, "b": -1}.get(r.verdict, 0) for r in those)
        if margin * towards_a < 0:
            said = [f"{r.annotator}: {r.category}" for r in those]
            found.append({"comparison": comparison, "margin": margin, "said": said})
    return sorted(found, key=lambda f: (-abs(f["margin"]), f["comparison"]))[:CONTESTED]


def _units(given: list[Rating], what: str) -> list[list[Any]]:
    """Ratings by comparison; skips, and for strengths what has none, are left out."""
    held: dict[str, list[Any]] = defaultdict(list)
    for rating in given:
        value = getattr(rating, what)
        if rating.category != "skip" and value is not None:
            held[rating.comparison].append(value)
    return list(held.values())


def _annotator(own: list[Rating], by_comparison: Mapping[str, list[Rating]], name: str, kind: str) -> dict[str, Any]:
    decisive = [r for r in own if r.verdict in ("a", "b")]
    left = wilson(sum(r.verdict == r.left for r in decisive), len(decisive))
    others = [
        [r.category == o.category for o in by_comparison.get(r.comparison, ()) if o.annotator != name]
        for r in own if r.category != "skip"
    ]  # fmt: skip
    shared = [same for same in others if same]
    return {
        "annotator": name,
        "kind": kind,
        "labels": len(own),
        "quarantined": sum(r.quarantine is not None for r in own),
        "skips": sum(r.category == "skip" for r in own),
        "ties": sum(r.category == "tie" for r in own),
        "flags": sum(len(r.flags) for r in own),
        "left": asdict(left),
        # The interval, not the share: ten labels may well go left seven times.
        "leans": bool(decisive) and not left.low <= 0.5 <= left.high,
        "agrees": _share_with_interval(shared, seed_of(name, "agrees")),
        "agrees_n": sum(len(same) for same in shared),
        "seconds": [r.seconds for r in own if r.seconds],
    }


def _share_with_interval(units: list[list[bool]], seed: int) -> dict[str, Any] | None:
    """Share of True over all values, with a bootstrap interval over units (values of one unit hang together)."""
    if not units:
        return None
    import numpy as np

    hits, sizes = np.array([sum(u) for u in units], dtype=float), np.array([len(u) for u in units], dtype=float)
    value, n = float(hits.sum() / sizes.sum()), int(sizes.sum())
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(units), len(units))
        drawn.append(hits[rows].sum() / sizes[rows].sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def _pairs(given: list[Rating]) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, str]] = defaultdict(dict)
    for rating in given:
        if rating.category != "skip":
            by_name[rating.annotator][rating.comparison] = rating.category
    found = []
    for one, other in combinations(sorted(by_name), 2):
        shared = sorted(by_name[one].keys() & by_name[other].keys())
        if not shared and found:
            continue
        units = [(by_name[one][c], by_name[other][c]) for c in shared]
        result: Agreement = with_interval(units, kappa_of, seed_of(one, other, "kappa"), RESAMPLES)
        found.append({"one": one, "other": other, "same": sum(a == b for a, b in units), "kappa": asdict(result)})
        if len(found) == MOST_PAIRS:
            break
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
