"""Which nodes of a lineage graph hold: the findings of `verify`, each put to the node that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlalchemy import select

from rlback.data import snapshot
from rlback.errors import CheckpointError, DataError
from rlback.ledger.label_tables import imported_labels
from rlback.ledger.store import Store
from rlback.ledger.tables import checkpoints, comparisons, labels
from rlback.models.manifest import verify_checkpoint
from rlback.project import Project
from rlback.registry.verification import label_snapshots, source_checks, verify

Node = dict[str, Any]
#: A page that only shows reads the records of no more events than this; who asks for files waits for more.
EVENTS_AT_ONCE = 20_000
WITH_FILES = ("data", "reward-model", "policy")
#: Where a whole check could not be made, or the chain is broken: the kinds of nodes that it would have been about.
_WHOLE = {
    "gates": ("gate",), "decisions": ("gate",), "votes": ("gate",), "versions": ("policy",), "campaigns": ("policy",),
    "checkpoints": ("policy", "reward-model"), "labels": ("batch",), "label details": ("batch",), "imports": ("batch",),
    "checks": ("batch",), "quarantines": ("batch",), "aliases": ("deployment",),
    "stages": ("data", "batch", "reward-model", "policy", "gate"),
}  # fmt: skip
_EVERYTHING = re.compile(r"ledger|signed heads|events|times|event \d+")
_BY_STAGE = {
    "data": ("data",), "base": ("policy",), "optimise": ("policy",), "sample": ("batch",), "label": ("batch",),
    "snapshot": ("reward-model",), "fit_reward": ("reward-model",), "evaluate": ("gate",), "decide": ("gate",),
    "settle": ("gate",),
}  # fmt: skip


def mark(project: Project, found: dict[str, Any], files: bool = False) -> dict[str, Any]:
    """The graph with a `mark` on each node, {state: holds | finding | not checked, why}, and how many findings are `elsewhere`.

    Records are compared with the ledger's events. With `files` the weights, label snapshots and source data of the
    graph's own nodes are read as well; until then a node that has files is not checked in full, and says so.
    """
    store, nodes = project.store, found["nodes"]
    said: dict[str, list[str]] = {node["id"]: [] for node in nodes}
    records = files or store.event_count() <= EVENTS_AT_ONCE
    findings = verify(project, None).findings if records else []
    read, elsewhere = set[str](), 0
    for finding in findings:
        ids = _concerned(store, finding.where, nodes)
        elsewhere += not ids
        for id_ in ids:
            said[id_].append(f"{finding.where}: {finding.what}")
    for id_, check in _file_checks(project, nodes) if files else ():
        read.add(id_)
        try:
            check()
        except (CheckpointError, DataError) as error:
            said[id_].append(error.message)
    marked = []
    for node in nodes:
        why, has_files = "; ".join(dict.fromkeys(said[node["id"]])), node["kind"] in WITH_FILES
        if why:
            of = {"state": "finding", "why": why}
        elif not records:
            of = {"state": "not checked", "why": f"the ledger has over {EVENTS_AT_ONCE} events: it is checked when files are"}
        elif has_files and node["id"] not in read:
            of = {"state": "not checked", "why": "its record holds; its files were not read"}
        else:
            of = {"state": "holds", "why": "its record and its files hold" if has_files else "its record holds"}
        marked.append({**node, "mark": of})
    return {**found, "nodes": marked, "elsewhere": elsewhere, "files_read": files}


def _concerned(store: Store, where: str, nodes: list[Node]) -> list[str]:
    """The nodes that a finding is about; none where it is about something else."""
    if _EVERYTHING.fullmatch(where):
        return [node["id"] for node in nodes]
    if where in _WHOLE:
        return [node["id"] for node in nodes if node["kind"] in _WHOLE[where]]
    if m := re.fullmatch(r"(?:stage )?(\S+) (?:round )?(\d+) ([a-z_]+)(?: \d+)?", where):
        return _of_stage(nodes, m[1], int(m[2]), m[3])
    if m := re.fullmatch(r"checkpoint ([0-9a-f]{12,64})", where):
        return [n["id"] for n in nodes if n["kind"] in ("policy", "reward-model") and str(n["digest"]).startswith(m[1])]
    if m := re.fullmatch(r"campaign (\S+)", where):  # by its configuration its policies were made
        return [node["id"] for node in nodes if node["kind"] == "policy" and node["campaign"] == m[1]]
    if m := re.fullmatch(r"aliases of (\S+)", where):
        return [node["id"] for node in nodes if node["kind"] == "deployment" and node["policy"] == m[1]]
    ids = set(_named(store, where))
    return [node["id"] for node in nodes if node["id"] in ids]


def _of_stage(nodes: list[Node], campaign: str, round_: int, stage: str) -> list[str]:
    return [
        node["id"] for node in nodes
        if node["kind"] in _BY_STAGE.get(stage, ())
        and (campaign in node["campaigns"] if node["kind"] == "data" else (node["campaign"], node["round"]) == (campaign, round_))
    ]  # fmt: skip


def _named(store: Store, where: str) -> Iterator[str]:
    """Ids of nodes that the words of a finding name."""
    if m := re.fullmatch(r"version (\S+?)[@ ](\d+)", where):
        yield f"policy:{m[1]}@{m[2]}"
    elif m := re.fullmatch(r"(?:decision at )?gate (\S+)", where) or re.match(r"vote \(?'?([\w.-]+)", where):
        yield f"gate:{m[1]}"
    elif m := re.fullmatch(r"labels of import (\d+)", where):
        there = select(comparisons.c.batch).join(labels, labels.c.comparison == comparisons.c.id)
        there = there.join(imported_labels, imported_labels.c.label == labels.c.id).where(imported_labels.c.number == int(m[1]))
        yield from (f"batch:{row.batch}" for row in store.rows(there.distinct()))
    elif m := re.fullmatch(r"(?:batch|labels of|checks of) (\S+)", where):
        yield f"batch:{m[1]}"
    elif m := re.fullmatch(r"label (\d{1,18})", where):
        there = select(comparisons.c.batch).join(labels, labels.c.comparison == comparisons.c.id)
        yield from (f"batch:{row.batch}" for row in store.rows(there.where(labels.c.id == int(m[1]))))
    elif m := re.fullmatch(r"label (?:of .* on )?(\S+)\.\d+(?: .*)?", where):
        yield f"batch:{m[1]}"


def _file_checks(project: Project, nodes: list[Node]) -> Iterator[tuple[str, Any]]:
    """(id of a node, what raises where its files do not hold) for weights, label snapshots and source data."""
    places = {row.digest: row.location for row in project.store.rows(select(checkpoints.c.digest, checkpoints.c.location))}
    try:
        frozen = {version.md5: (path, version) for _, path, version in label_snapshots(project.store)}
        sources = source_checks(project)
    except (ValueError, KeyError, TypeError, AttributeError):
        frozen, sources = {}, []  # that a stage's record is damaged is a finding of `verify`
    for node in nodes:
        if node["kind"] in ("policy", "reward-model") and node["digest"] in places:
            yield node["id"], partial(verify_checkpoint, project.absolute(places[node["digest"]]), node["digest"])
        if node.get("snapshot") in frozen:
            path, version = frozen[node["snapshot"]]
            yield node["id"], partial(snapshot.verify, project.root, project.root / path, version)
        if node["kind"] == "data":
            own = {f"source data {node['digest']}", *(f"source data of {name}" for name in node["campaigns"])}
            # What stands in data/ now is the version that no check names by itself.
            checks = [c for where, c in sources if where in own] or [c for where, c in sources if where == "source data"]
            yield from ((node["id"], check) for check in checks)
