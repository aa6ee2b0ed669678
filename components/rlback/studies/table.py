"""The one tidy table of a study: a row for each setting, arm, seed, round, attempt and recorded point.

`point`: `step` (on the way), `candidate` (the end of an attempt), `kept` (the kept policy once the attempt was decided,
whether or not it changed). Costs are cumulative and hold everything spent so far, declined attempts included.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlback.disks import replacing
from rlback.errors import DataError

POINTS = ("step", "candidate", "kept")
STATUSES = ("ok", "diverged")
#: `none` on step rows; `stopped` where an arm gave up without a further attempt.
DECISIONS = ("none", "kept", "declined")

_TEXT = ("study", "world", "setting", "arm", "point", "decision", "status", "config_digest", "code_revision")
_WHOLE = ("seed", "round", "attempt", "step", "labels_reward", "labels_gate", "labels", "updates", "win_rate_n")

#: Column to meaning. Units: labels are verdicts, updates optimiser steps, gold standard deviations of the base policy.
COLUMNS: dict[str, str] = {
    "study": "name of the study",
    "world": "bandit, or another learner's name",
    "setting": "name of the world's settings",
    "arm": "the method",
    "seed": "problem and all randomness; equal seeds are paired between arms",
    "round": "counted from 1",
    "attempt": "within its round, from 1",
    "step": "optimiser steps since the attempt began (a kept row: the kept candidate's, 0 if it did not change)",
    "point": "step, candidate or kept",
    "decision": "kept or declined; none on step rows",
    "labels_reward": "labels for reward models, DPO or direct optimisation",
    "labels_gate": "labels a gate, a ladder or early stopping decided on",
    "labels": "the sum: every label that influenced anything",
    "updates": "optimiser steps, declined attempts included",
    "seconds": "processor seconds of one lane: its share of what its unit spent so far",
    "gold": "expected gold reward; 0 and 1 are its mean and standard deviation under the base policy",
    "proxy": "expected score under the reward model being optimised",
    "proxy_standardised": "the same in standard deviations above base samples",
    "kl": "nats from the base policy",
    "kl_segment": "nats from the start of the attempt",
    "accuracy_on_policy": "share of the policy's own pairs the reward model orders as gold does",
    "accuracy_heldout": "the same on base pairs",
    "spread": "standard deviation over an ensemble's members",
    "reward_variance": "of the standardised score under the policy",
    **{f"mx_{name}_{which}": f"MX_{name}, {text}" for name in ("sign", "false", "bad", "flow")
       for which, text in (("kept", "updates on the lineage of this row's policy"), ("all", "all updates so far"))},
    **{f"mx_integrated_{which}": f"sum over {text} of learning rate times what MX_sign counts: no share"
       for which, text in (("kept", "updates on the lineage of this row's policy"), ("all", "all updates so far"))},
    "accuracy_implicit": "share of base pairs that log policy less log base orders as gold does",
    "bad": "share of the policy's completions in the fixed bad set, where the world has one",
    "win_rate": "candidate against start by the labels of this attempt",
    "win_rate_n": "how many labels that is",
    "win_true": "probability that annotators prefer the candidate to the start, where the world knows it",
    "tail_index": "Hill's index of proxy_standardised less gold over the policy's samples; small is a heavy tail",
    "status": "ok or diverged",
    "config_digest": "of everything that determines the row's unit, seeds left out",
    "code_revision": "digest of the sources that determine the numbers (studies/revision.py)",
}  # fmt: skip


def _kind(name: str) -> pa.DataType:
    return pa.string() if name in _TEXT else pa.int64() if name in _WHOLE else pa.float64()


SCHEMA = pa.schema([pa.field(name, _kind(name), nullable=_kind(name) == pa.float64()) for name in COLUMNS])
#: Results from before these columns were recorded are read with none of them.
_LATER = ("win_true", "tail_index", "mx_integrated_kept", "mx_integrated_all", "accuracy_implicit", "bad")
#: Rows are unique in these, and sorted by them.
IDENTITY = ("setting", "arm", "seed", "round", "attempt", "point", "step")
_COMMITS = b"rlback.commits"


def table_of_columns(columns: Mapping[str, Any]) -> pa.Table:
    """Columns of equal length as a table of the schema; NaN and infinities become null. KeyError for a missing one."""
    made = {}
    for field in SCHEMA:
        column = pa.array(columns[field.name], type=field.type, from_pandas=True)
        if field.type == pa.float64():
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
        made[field.name] = column
    return pa.table(made, schema=SCHEMA)


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet beside `path` and moves it there: a reader sees a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, writer=os.getpid()) as beside:
        pq.write_table(table, beside, compression="zstd", version="2.6")


def share_kept(parts: Sequence[Path]) -> float:
    """Share of the attempts in these files that were kept."""
    table = pa.concat_tables([pq.read_table(p, columns=["point", "decision"]) for p in parts])
    attempts = table.filter(pc.equal(table["point"], "candidate"))
    return pc.mean(pc.equal(attempts["decision"], "kept").cast(pa.float64())).as_py()


def stamped(table: pa.Table, commits: Sequence[str]) -> pa.Table:
    """The table with the commits its rows were computed at, for the reader only: its metadata, not its columns."""
    names = " ".join(sorted(set(filter(None, commits))))
    return table.replace_schema_metadata({_COMMITS: names} if names else None)


def commits_of(of: Path | pa.Table) -> list[str]:
    """Commits that the rows of a file or a table were computed at; none where it does not say."""
    schema = of.schema if isinstance(of, pa.Table) else pq.read_schema(of)
    return (schema.metadata or {}).get(_COMMITS, b"").decode().split()


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in the order of IDENTITY, so that the same rows give the same bytes however they were computed."""
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in IDENTITY])
    return table.take(order).combine_chunks()


def read_table(path: Path) -> pa.Table:
    """Reads and checks results.

    Raises:
        DataError: the file is missing, no Parquet, lacks or has columns it should not, holds an unknown point,
            decision or status, a cost that is negative or falls along a run, or two rows for one point.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"there are no results at {path}", remedy="run the study first: rlback study CONFIG") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None
    return check(table, str(path))


def check(table: pa.Table, place: str) -> pa.Table:
    """The table with its columns in order; see `read_table` for what it raises."""
    for name in [name for name in _LATER if name not in table.column_names]:
        table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), pa.float64()))
    missing = [name for name in COLUMNS if name not in table.column_names]
    extra = [name for name in table.column_names if name not in COLUMNS]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
        raise DataError(f"{place} is no table of study results: it {' and '.join(parts)}", remedy="see studies/table.py")
    table = table.select(list(COLUMNS))
    for field in SCHEMA:
        if table.schema.field(field.name).type != field.type:
            raise DataError(f"{place}: column {field.name} is {table.schema.field(field.name).type}, not {field.type}")
        if not field.nullable and table[field.name].null_count:
            raise DataError(f"{place}: column {field.name} has {table[field.name].null_count} empty values")
    for name, allowed in (("point", POINTS), ("status", STATUSES), ("decision", DECISIONS)):
        odd = [v for v in pc.unique(table[name]).to_pylist() if v not in allowed]
        if odd:
            raise DataError(f"{place}: column {name} holds {str(odd[0])[:60]!r}, not one of {', '.join(allowed)}")
    for name in ("labels_reward", "labels_gate", "labels", "updates"):
        if len(table) and pc.min(table[name]).as_py() < 0:
            raise DataError(f"{place}: column {name} is negative somewhere")
    if len(table) and not pc.all(pc.equal(pc.add(table["labels_reward"], table["labels_gate"]), table["labels"])).as_py():
        raise DataError(f"{place}: labels is not labels_reward + labels_gate in every row")
    if table.group_by(list(IDENTITY)).aggregate([]).num_rows != len(table):
        raise DataError(f"{place} holds two rows for one point", remedy="remove the results and run the study again")
    return table.cast(SCHEMA.with_metadata(table.schema.metadata))
