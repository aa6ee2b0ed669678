"""The report of a campaign, or of several methods compared: one HTML page with its pictures, no script.

Everything a model, a person or a file may have written reaches the page through `visible` and Jinja's
escaping; by a Content-Security-Policy of its own the page may use nothing but its one style block.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlback.disks import write_whole
from rlback.errors import DataError
from rlback.evaluation.figures import curves_figure
from rlback.evaluation.findings import gated_rounds, has_gold, headline, returns, story
from rlback.evaluation.round_tree import tree_figure
from rlback.evaluation.svg import FIGURE_CSS, Data, interval, number, percent, standalone, visible

WIDE, NARROW = 1080, 344
SAMPLES_SHOWN, EVENTS_SHOWN = 60, 300
_NEEDED = ("title", "base", "methods")


def write_report(data: dict[str, Any], directory: Path) -> Path:
    """Write `index.html`, `gold_proxy.svg` and (where there are rounds) `rounds.svg`; return the page's path.

    The page needs no other file. Gold rewards may be None anywhere: where there are none at all, no column,
    curve or sentence speaks of them. Raises DataError for data that lacks the parts a report is made of.
    """
    missing = [key for key in _NEEDED if not data.get(key)]
    if missing:
        raise DataError(
            f"The report data lacks {', '.join(missing)}.",
            remedy="run the campaign at least to its first evaluation, then ask for the report again",
        )
    data = _clipped(data)
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {"gold_proxy": curves_figure}
    if any(gated_rounds(method) for method in data["methods"].values()):
        pictures["rounds"] = tree_figure
    drawn = {}
    for name, draw in pictures.items():
        wide = draw(data, width=WIDE, uid=f"{name}-wide")
        drawn[name] = {"wide": Markup(wide), "narrow": Markup(draw(data, width=NARROW, uid=f"{name}-narrow"))}
        write_whole(directory / f"{name}.svg", standalone(wide))
    page = directory / "index.html"
    write_whole(page, _environment().get_template("report.html").render(_view(data), figures=drawn, **_style()))
    return page


#: The measures of the table of methods: key, name, unit, meaning, how a value is written.
MEASURES: tuple[tuple[str, str, str, str, Callable[[Any], str]], ...] = (
    (
        "labels",
        "Labels",
        "",
        "verdicts that influenced anything, the gate's included",
        lambda n: number(n, 0),
    ),
    (
        "gold",
        "Gold reward",
        "points",
        "mean score by a fixed scorer that stands for the people; higher is better",
        number,
    ),
    (
        "proxy",
        "Proxy reward",
        "sd",
        "mean score by the reward model in use, in standard deviations above base samples",
        number,
    ),
    ("kl", "KL", "nats", "distance from the base policy, per completion", lambda x: number(x, 1)),
    (
        "misreward_kept",
        "Misreward exposure, kept",
        "%",
        "kept training signals that point the wrong way; lower is better",
        percent,
    ),
    (
        "kept_steps",
        "Kept steps",
        "updates",
        "training steps in the lineage of the final policy",
        lambda n: number(n, 0),
    ),
    (
        "approved",
        "Approved policy",
        "",
        "the last one that an approver let through",
        lambda name: name or "–",
    ),
)


def _rows(data: Data) -> list[dict[str, Any]]:
    """The table of methods: one row a measure. What no method has a value for is left out, if it may be."""
    methods = list(data["methods"].values())
    rows = []
    for key, name, unit, meaning, written in MEASURES:
        values = [method.get(key) for method in methods]
        known = [value for value in values if value is not None]
        if known or key not in ("gold", "misreward_kept"):
            best = max(known) if key == "gold" and len(known) > 1 else None
            if key == "misreward_kept":  # a share of no steps at all is no share
                values = [v if m.get("kept_steps") else None for v, m in zip(values, methods, strict=True)]
            if key == "approved":
                values = [v if gated_rounds(m) else "no gate" for v, m in zip(values, methods, strict=True)]
            cells = [{"text": written(v), "best": v is not None and v == best} for v in values]
            rows.append({"name": name, "unit": unit, "meaning": meaning, "cells": cells})
    return rows


def _view(data: Data) -> dict[str, Any]:
    gold = has_gold(data)
    samples = list(data.get("samples") or [])
    methods = [
        {**m, "mark": i % 6, "back": returns(m), "gated": bool(gated_rounds(m))}
        for i, m in enumerate(data["methods"].values())
    ]
    audit = list(data.get("audit") or [])
    return {
        "data": data,
        "gold": gold,
        "headline": headline(data),
        "story": story(data),
        "methods": methods,
        "rows": _rows(data),
        "simulated": bool((data.get("approval") or {}).get("simulated")),
        "samples": [
            (source, list(group))
            for source, group in groupby(samples[:SAMPLES_SHOWN], key=lambda sample: sample.get("source", ""))
        ],
        "samples_left": max(0, len(samples) - SAMPLES_SHOWN),
        "audit": audit[-EVENTS_SHOWN:],
        "audit_left": max(0, len(audit) - EVENTS_SHOWN),
        "ledger": data.get("ledger"),
        "notes": list(data.get("notes") or []),
        "origin": _origin(data),
    }


def _origin(data: Data) -> list[tuple[str, str]]:
    known = [
        ("World", "world"),
        ("Seed", "seed"),
        ("Data version", "data_version"),
        ("Code commit", "commit"),
        ("Command", "command"),
    ]
    rows = [(name, str(data[key])) for name, key in known if data.get(key) not in (None, "")]
    if data.get("created"):
        rows.append(("Created", moment(data["created"])))
    if data.get("seconds") is not None:
        minutes, seconds = divmod(round(data["seconds"]), 60)
        rows.append(("Took", f"{minutes} min {seconds} s" if minutes else f"{data['seconds']:.1f} s"))
    return rows


def moment(iso: str) -> str:
    """An ISO time as `2031-05-04 12:30:05 UTC` (other offsets are kept as they are); other text unchanged."""
    try:
        when = datetime.fromisoformat(iso)
    except (TypeError, ValueError):
        return str(iso)
    shown = when.strftime("%Y-%m-%d %H:%M:%S")
    return f"{shown} {when.tzname()}" if when.tzinfo else shown


def _style() -> dict[str, Markup]:
    sheet = FIGURE_CSS + (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    return {"style": Markup(sheet), "policy": Markup(f"default-src 'none'; style-src 'sha256-{digest}'")}


def _clipped(data: Data) -> dict[str, Any]:
    """The same data with names short enough for a sentence, and a list wherever one may be missing."""
    methods = {
        key: {
            **m,
            "label": visible(m["label"], 40),
            "curve": m.get("curve") or [],
            "rounds": _named(m),
        }
        for key, m in data["methods"].items()
    }
    return {**data, "title": visible(data["title"], 120), "methods": methods}


def _named(method: Data) -> list[dict[str, Any]]:
    # A round whose training diverged has no candidate; it still needs a name of its own in the tree.
    return [
        {**r, "candidate": r.get("candidate") or f"none (round {r['round']})"}
        for r in method.get("rounds") or []
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, percent=percent, interval=interval, moment=moment, visible=visible
    )
    return environment


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else "" if value is None else visible(value)
