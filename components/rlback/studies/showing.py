"""Tables as a terminal, a page or a program wants them, and chosen by name and arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlback.studies.arms import named
from rlback.studies.reading import Results, Table
from rlback.studies.tables import TABLES


def chosen(results: Results, tables: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Table]:
    """Tables by name, all without one, with the rows of some arms only where any are named.

    Raises:
        ConfigError: there is no table or arm of a name; the nearest is named.
    """
    there = dict.fromkeys(results.frame["arm"].unique())
    for name in tables:
        named(name, TABLES, "the results", "table")
    for arm in arms:
        named(arm, there, "the results", "arm")
    made = [only(TABLES[name](results), arms) for name in TABLES if not tables or name in tables]
    return [table for table in made if table.rows or tables]


def only(table: Table, arms: Sequence[str]) -> Table:
    """The rows of these arms, where a table has rows of arms at all; those of a factorial go by any of its arms."""
    if not arms or table.name == "primary":
        return table
    methods = {arm.rpartition("-swap-")[0] for arm in arms}
    rows = [row for row in table.rows if row.get("arm") in arms or row.get("method") in methods]
    return Table(table.name, table.title, table.note, rows)


def as_plain(tables: list[Table]) -> dict[str, Any]:
    """For JSON: numbers that are not finite become null."""
    return {
        t.name: {"title": t.title, "note": t.note, "rows": [{k: _plain(v) for k, v in r.items()} for r in t.rows]}
        for t in tables
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(row: dict[str, Any]) -> dict[str, str]:
    """A row's cells as a reader sees them; an interval is one cell with its value."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if key == "low" or key == "high" or key.endswith((" low", " high")):
            continue
        prefix = {"gold": "", "arrived": "rate "}.get(key, key.removeprefix("minus ") + " ")
        low, high = row.get(f"{prefix}low"), row.get(f"{prefix}high")
        text = _chance(value) if key == "p" or key.startswith("log-rank p") else _number(value)
        cells[key] = f"{text} [{_number(low)}, {_number(high)}]" if low is not None and key != "arrived" else text
    return cells


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "−")


def _chance(value: float) -> str:
    """A p-value: one that would be shown as 0 is not 0."""
    return "<0.005" if value < 0.005 else _number(value)


def as_text(tables: list[Table]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for table in tables:
        rows = [shown(row) for row in table.rows]
        heads = list(dict.fromkeys(key for row in rows for key in row))
        widths = {h: max(len(h), *(len(r.get(h, "")) for r in rows)) if rows else len(h) for h in heads}
        lines += [table.title, f"  ({table.note})", "  ".join(h.ljust(widths[h]) for h in heads)]
        lines += ["  ".join(r.get(h, "").ljust(widths[h]) for h in heads).rstrip() for r in rows] + [""]
    return "\n".join(lines)
