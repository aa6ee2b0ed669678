"""Reading a file of people's preferences into `PreferencePair`s: all of it, or an error that says where."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlback.data.formats import RowProblem, Table, table_of
from rlback.data.shapes import (
    SHAPE_COLUMNS,
    Parsed,
    Render,
    parse_row,
    render_messages,
    shape_columns_missing,
    storable,
    weight_of,
)
from rlback.data.source import DEFAULT_LIMITS, Limits, open_source
from rlback.errors import DataError
from rlback.records import PreferencePair

__all__ = ["DEFAULT_LIMITS", "Limits", "PairFile", "opened", "read_pairs", "render_messages"]

_SHOWN = 20
_NAME_CHARS = 1_000
_GROUP_COLUMNS = ("group", "topic")


@dataclass(frozen=True)
class PairFile:
    """What a preference file holds.

    `format` is the file's ("jsonl.gz", "json", "csv", "parquet", ...), `shapes` counts how its rows were
    written. `rows` is every row that is not blank and splits into the pairs, `ties`, `both_bad`, `skips`,
    `prompts_differ` (dropped on request) and `invalid` (left out on request; `problems` names the first 20).
    `duplicates` are pairs that repeat an earlier one and `contradictions` pairs that turn an earlier one
    round; both are kept among `pairs`, since several people may have judged the same comparison.
    """

    path: Path
    format: str
    sha256: str
    pairs: list[PreferencePair]
    rows: int
    ties: int
    both_bad: int
    skips: int
    prompts_differ: int
    invalid: int
    problems: tuple[str, ...]
    duplicates: int
    contradictions: int
    shapes: Mapping[str, int]


def read_pairs(
    path: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    skip_invalid: bool = False,
    prompt_mismatch: Literal["error", "drop"] = "error",
    group_column: str | None = None,
    group_until: str | None = None,
    render: Render = render_messages,
) -> PairFile:
    """Read every preference pair of a file, in the file's order.

    The format is told from the content: JSON lines, a JSON array, CSV (each plain, gzip, xz or bzip2) or
    Parquet.
    Rows are {chosen, rejected} whole dialogues ("\\n\\nHuman: ... \\n\\nAssistant: ...") or message lists,
    {prompt, chosen, rejected} with texts or message lists, or labelled comparisons {prompt, a, b, label} and
    {conversation_a, conversation_b, winner}, whose ties, both-bad verdicts and skips are counted and make no
    pair. Texts are kept as they are. Optional columns: `id`, `weight` (above 0, at most a million), `group` or `topic`.

    group_column: the column that fills `PreferencePair.group`; default `group`, else `topic`, else no group.
        "prompt" makes one group of the rows that open with the same turn, whatever the file's shape.
    group_until: keep only the part of the group before the first such text.
    prompt_mismatch: what to do where the two sides of a whole dialogue answer different prompts.
    skip_invalid: leave out and count rows that cannot be used. Damage to the file itself is always an error.
    render: makes a text of a prompt that is a message list, such as a tokenizer's chat template with the
        mark that opens the assistant's turn.

    Raises `DataError` naming file and line (or row, for a JSON array or Parquet).
    """
    if prompt_mismatch not in ("error", "drop"):
        raise ValueError(f"prompt_mismatch must be 'error' or 'drop', not {prompt_mismatch!r}")
    path = Path(path)
    wanted = SHAPE_COLUMNS | {"id", "weight", *_GROUP_COLUMNS} | ({group_column} if group_column else set())
    pairs: list[PreferencePair] = []
    outcomes: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    problems: list[str] = []
    with open_source(path, limits) as source:
        table = table_of(source, wanted)
        _check_columns(path, table, group_column)
        for row in table.rows:
            try:
                if row.value is None:
                    raise RowProblem(row.problem or "unreadable")
                parsed = parse_row(row.value, render, limits.max_text_chars)
                if parsed.outcome == "prompts_differ" and prompt_mismatch == "error":
                    raise RowProblem(
                        "the two sides answer different prompts",
                        remedy='correct the row, or read with prompt_mismatch="drop" to leave such rows out',
                    )
                if parsed.outcome == "pair":
                    pairs.append(_pair(parsed, row.value, group_column, group_until))
            except RowProblem as problem:
                place = f"{table.unit} {row.number}: {problem}"
                if not skip_invalid:
                    raise DataError(f"{path}, {place}", remedy=problem.remedy) from problem
                outcomes["invalid"] += 1
                if len(problems) < _SHOWN:
                    problems.append(place)
                continue
            outcomes[parsed.outcome] += 1
            shapes[parsed.shape] += 1
        digest = source.sha256
    if not pairs:
        raise _no_pairs(path, outcomes, problems)
    duplicates, contradictions = _repeats(pairs)
    return PairFile(
        path=path,
        format=table.format,
        sha256=digest,
        pairs=pairs,
        rows=outcomes.total(),
        ties=outcomes["tie"],
        both_bad=outcomes["both_bad"],
        skips=outcomes["skip"],
        prompts_differ=outcomes["prompts_differ"],
        invalid=outcomes["invalid"],
        problems=tuple(problems),
        duplicates=duplicates,
        contradictions=contradictions,
        shapes=dict(shapes),
    )


def _check_columns(path: Path, table: Table, group_column: str | None) -> None:
    """Where the file has a header, a missing column concerns all rows and is never skipped."""
    if table.columns is None:
        return
    complaint = shape_columns_missing(table.columns)
    if complaint is None and group_column not in (None, "prompt", *table.columns):
        complaint = f"missing: the group column {group_column!r}"
    if complaint:
        raise DataError(f"{path}: {complaint}", remedy="rename the columns")


def _pair(
    parsed: Parsed, row: Mapping[str, Any], group_column: str | None, group_until: str | None
) -> PreferencePair:
    return PreferencePair(
        prompt=parsed.prompt,
        chosen=parsed.chosen,
        rejected=parsed.rejected,
        group=_group(parsed, row, group_column, group_until),
        weight=weight_of(row["weight"]) if "weight" in row else 1.0,
        id=_name("id", row["id"]) if "id" in row else "",
    )


def _group(parsed: Parsed, row: Mapping[str, Any], column: str | None, until: str | None) -> str:
    if column == "prompt":
        return hashlib.sha256(parsed.opening.encode()).hexdigest()[:16]
    column = column or next((name for name in _GROUP_COLUMNS if name in row), None)
    if column is None:
        return ""
    if column not in row:
        raise RowProblem(
            f"missing: the group column {column!r}",
            remedy="correct the row, or name another column in source.group_column (prompt: every prompt is a group)",
        )
    group = _name(column, row[column])
    return group.split(until, 1)[0] if until else group


def _name(column: str, value: Any) -> str:
    """A short text, or a whole number as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**30:
            raise RowProblem(f"{column} is a number of more than 30 digits")
        value = str(value)
    return storable(column, value, _NAME_CHARS)


def _repeats(pairs: list[PreferencePair]) -> tuple[int, int]:
    """How many pairs repeat an earlier one, and how many turn an earlier one round."""
    seen: set[tuple[str, str, str]] = set()
    duplicates = contradictions = 0
    for pair in pairs:
        key = (pair.prompt, pair.chosen, pair.rejected)
        duplicates += key in seen
        contradictions += (pair.prompt, pair.rejected, pair.chosen) in seen
        seen.add(key)
    return duplicates, contradictions


def _no_pairs(path: Path, outcomes: Counter[str], problems: list[str]) -> DataError:
    counted = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items())]
    found = ", ".join(counted) or "no row"
    first = f"; first: {problems[0]}" if problems else ""
    return DataError(
        f"{path} holds no preference pair ({found}{first})",
        remedy="give a file with at least one decided pair",
    )


def opened(prompt: str) -> str:
    """A prompt that ends where a completion can begin: a bare title gets a blank line after it."""
    return prompt if not prompt or prompt.endswith(("\n", ":", " ")) else f"{prompt}\n\n"
