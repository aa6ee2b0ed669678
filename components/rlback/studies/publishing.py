"""A study's results as files: results.parquet, what it was run with, figures and one HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlback.disks import write_whole
from rlback.errors import DataError
from rlback.studies.config import AnalysisKeys, Study
from rlback.studies.reading import Results, Table
from rlback.studies.showing import shown
from rlback.studies.table import commits_of, read_table, write_table
from rlback.studies.tables import all_tables, read

_CSS = """
:root{color-scheme:light;--ink:#1c2430;--soft:#586273;--line:#d8dde3}
body{margin:0 auto;max-width:1280px;padding:1rem;color:var(--ink);font:16px/1.5 system-ui,'Noto Sans','DejaVu Sans',sans-serif}
h1{font-size:1.7rem;line-height:1.2;overflow-wrap:anywhere}h2{font-size:1.2rem;margin-top:2rem}
p{max-width:60em;color:var(--soft)}.scroll{overflow-x:auto}img{width:100%;height:auto;min-width:700px}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .7rem .25rem 0;border-top:1px solid var(--line);white-space:nowrap}
"""


def publish(table: pa.Table, study: Study, out: Path) -> Path:
    """Writes everything into `out` and returns the page. The table goes first: it is what counts."""
    write_table(table, out / "results.parquet")
    about = {"name": study.name, "about": study.keys.about, "analysis": asdict(study.keys.analysis)}
    about["settings"] = {name: s.about for name, s in study.settings.items()}
    about["facts"] = {name: study.learner(name, study.seeds[:1], out / "shared").facts() for name in study.settings}
    about["arms"] = {name: arm.about for name, arm in study.arms.items()}
    about["arm_settings"] = {name: arm.settings() for name, arm in study.arms.items()}
    about["commits"] = commits_of(table)
    write_whole(out / "study.json", json.dumps(about, indent=1))
    results = read(table, study.keys.analysis, about["arm_settings"])
    tables = all_tables(results)
    from rlback.studies.pictures import draw, draw_approvals

    figures = draw(results.frame, out / "figures")
    figures |= draw_approvals(next((t.rows for t in tables if t.name == "approvals"), []), out / "figures")
    page = out / "index.html"
    write_whole(page, _page(study, table, tables, {name: files[0] for name, files in figures.items()}, about["facts"]))
    return page


def read_published(
    out: Path, *, draws: int | None = None, settings: Sequence[str] = (), against: Sequence[str] = ()
) -> Results:
    """The results as their study wanted them analysed; `settings` and `against` as for `tables.read`.

    Raises:
        DataError: files are missing or damaged, or the rows do not belong together.
        ConfigError: there is no setting or arm of a name.
    """
    table = read_table(out / "results.parquet")
    try:
        about = json.loads((out / "study.json").read_text(encoding="utf-8"))
        keys = AnalysisKeys(**about["analysis"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "run the study again; its parts are kept"
        raise DataError(f"{out / 'study.json'} cannot be read: {error}", remedy=remedy) from None
    return read(table, keys, about.get("arm_settings"), draws=draws, settings=settings, against=against)


def _page(study: Study, table: pa.Table, tables: list[Table], figures: dict[str, Path], facts: dict[str, Any]) -> str:
    revision, seeds, commits = table["code_revision"][0].as_py(), study.seeds, ", ".join(commits_of(table)) or "unknown"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Study {escape(study.name)}</title><style>{_CSS}</style><h1>Study {escape(study.name)}</h1>",
        f"<p>{escape(study.keys.about)}. World {escape(study.keys.world)}, seeds {seeds[0]} to {seeds[-1]}, "
        f"code {escape(revision)} (commit {escape(commits)}). The labels are simulated.</p>",
    ]
    for name, setting in study.settings.items():
        parts.append(_gold(facts[name]))
        image = base64.b64encode(figures[name].read_bytes()).decode()
        parts.append(
            f"<h2>{escape(name)}</h2><p>{escape(setting.about)}</p><div class=scroll tabindex=0>"
            f'<img alt="Gold against distance, labels and updates in the setting {escape(name)}; the tables hold the figures" '
            f'src="data:image/svg+xml;base64,{image}"></div>'
        )
    for table_ in tables:
        parts.append(_table(table_))
        if table_.name in figures:
            image = base64.b64encode(figures[table_.name].read_bytes()).decode()
            parts.append(
                f'<div class=scroll tabindex=0><img alt="{escape(table_.title)}; the table above holds the figures" '
                f'src="data:image/svg+xml;base64,{image}"></div>'
            )
    return "".join([*parts, "</html>"])


def _gold(facts: dict[str, Any]) -> str:
    """What gold is worth, where it is a model."""
    gold = facts.get("gold")
    if gold is None:
        return ""
    crossed = gold["cross_validation"]
    shown = "not finished" if crossed["accuracy"] is None else f"{crossed['accuracy']:.3f}"
    return (
        f"<p>Gold is a reward model of {gold['parameters']:,} parameters (a proxy has {gold['proxy_parameters']:,}), fitted to "
        f"{gold['pairs']:,} human pairs of {len(gold['debates'])} debates. Accuracy on debates held out of its fit, "
        f"{len(crossed['folds'])} of {crossed['of']} folds: {shown}; on the other debates' pairs "
        f"{gold['other_debates']['accuracy']:.3f}. The longer argument wins {gold['longer_wins']:.3f} of its pairs.</p>"
    )


def _table(table: Table) -> str:
    rows = [shown(row) for row in table.rows]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(r.get(h, ''))}</td>" for h in heads) + "</tr>" for r in rows)
    return (
        f"<h2>{escape(table.title)}</h2><p>{escape(table.note)}</p><div class=scroll tabindex=0><table><thead><tr>{head}</tr>"
        f"</thead><tbody>{body}</tbody></table></div>"
    )
