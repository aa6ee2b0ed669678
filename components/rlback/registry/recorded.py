"""Whether the rows that decide something are those that the ledger's events recorded.

Only events are chained and signed. A row elsewhere (a decision, a gate's state, a version's status) could be
edited without touching them, so each is compared with what its events say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from rlback.labelling.batches import batch_id
from rlback.labelling.imports import imported_batch_id
from rlback.ledger.chain import Event
from rlback.ledger.gate_tables import votes
from rlback.ledger.label_tables import imported_labels
from rlback.ledger.store import Store
from rlback.ledger.tables import batches, campaigns, checkpoints, comparisons, decisions, gates, labels, stages, versions
from rlback.records import digest_of
from rlback.registry.gates import STATE_AFTER, gate_id
from rlback.registry.operations import list_aliases, list_versions

REMEDY = "restore the database from a backup"


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: where, what, and what to do."""

    where: str
    what: str
    remedy: str


def _digest(text: Any) -> str | None:
    """Digest of a stored JSON text; None, which no event recorded, where it is none."""
    try:
        return digest_of(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None


def _differing(row: Any, recorded: dict[str, Any]) -> str:
    """The columns of a row that are not as recorded, "" where none differs."""
    return ", ".join(column for column, value in recorded.items() if getattr(row, column) != value)


def compare(rows: Sequence[Any], key: Callable[[Any], Any], expected: dict[Any, dict[str, Any]], what: str) -> Iterator[Finding]:
    """Rows against the columns that events recorded under the same key; lost and foreign rows are findings too."""
    left = dict(expected)
    for row in rows:
        name, recorded = key(row), left.pop(key(row), None)
        if recorded is None:
            yield Finding(f"{what} {name}", "no event in the ledger made it", REMEDY)
        elif differing := _differing(row, recorded):
            yield Finding(f"{what} {name}", f"its {differing} is not as in the ledger", REMEDY)
    for name in left:
        yield Finding(f"{what} {name}", "it is in the ledger, but the table has lost it", REMEDY)


def _campaigns(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    expected: dict[str, dict[str, Any]] = {}
    configs: dict[str, str] = {}
    for event in recorded:
        if event.kind == "campaign.started":
            said = event.payload
            configs[event.subject] = said["config"]
            expected[event.subject] = {
                "policy": said["policy"], "config_digest": said["config"], "started_by": event.actor, "state": "active",
                "finish_reason": "",
            }  # fmt: skip
        elif event.kind in ("campaign.finished", "campaign.stopped") and event.subject in expected:
            state, reason = event.kind.partition(".")[2], event.payload["reason"]
            told = f"stopped by {event.actor}: {reason}" if state == "stopped" else reason
            expected[event.subject] |= {"state": state, "finish_reason": told}
    rows = store.rows(select(campaigns))
    yield from compare(rows, lambda row: row.name, expected, "campaign")
    inputs = {e.subject: digest_of(e.payload["inputs"]) for e in recorded if e.kind == "campaign.started"}
    for row in rows:
        if _digest(row.config) != configs.get(row.name):
            yield Finding(f"campaign {row.name}", "its configuration is not the one it was started with", REMEDY)
        if _digest(row.inputs) != inputs.get(row.name):
            yield Finding(f"campaign {row.name}", "its inputs are not those it was started with", REMEDY)


def _stages(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    done = {
        (e.subject, e.payload["round"], e.payload["stage"], e.payload["attempt"]): e.payload
        for e in recorded
        if e.kind == "stage.done"
    }
    for row in store.rows(select(stages)):
        said = done.pop((row.campaign, row.round, row.stage, row.attempt), {})
        output, where = said.get("output"), f"{row.campaign} round {row.round} {row.stage}"
        if output is None or output != _digest(row.output) or output != row.output_digest:
            yield Finding(where, "its output is not the one recorded", REMEDY)
        # Other campaigns take a base over by this key. Of bases older than this record nothing is said about it.
        elif row.cache_key != said.get("cache_key", row.cache_key if row.stage == "base" else None):
            yield Finding(where, "its cache_key is not as in the ledger: another campaign could take over a wrong base", REMEDY)
    for campaign, round_, stage, _ in done:
        yield Finding(f"{campaign} round {round_} {stage}", "the ledger has it, but the table has lost it", REMEDY)


def _gates(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """State and evidence of gates, replayed from opened, decided and expired."""
    expected: dict[str, dict[str, Any]] = {}
    for event in recorded:
        said = event.payload
        if event.kind == "gate.opened":
            expected[said["gate"]] = {
                "campaign": event.subject, "round": said["round"], "evidence_digest": said["evidence"], "state": "open",
            }  # fmt: skip
        elif event.kind == "gate.decided":
            expected[said["gate"]]["state"] = STATE_AFTER[said["verdict"]]
        elif event.kind in ("gate.expired", "gate.superseded") and expected[said["gate"]]["state"] == "open":
            expected[said["gate"]]["state"] = event.kind.partition(".")[2]
    rows = store.rows(select(gates))
    for row in rows:
        if _digest(row.evidence) != expected.get(row.id, {}).get("evidence_digest"):
            yield Finding(f"gate {row.id}", "its evidence is not the one that was decided on", REMEDY)
        if row.id != gate_id(row.campaign, row.round, row.attempt):
            yield Finding(f"gate {row.id}", f"its attempt {row.attempt} is not the one it was opened for", REMEDY)
    yield from compare(rows, lambda row: row.id, expected, "gate")


def _decisions(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    decided = {
        e.payload["gate"]: {
            "verdict": e.payload["verdict"], "approver": e.actor, "approver_kind": e.actor_kind,
            "reason": e.payload["reason"], "evidence_digest": e.payload["evidence"],
        }
        for e in recorded
        if e.kind == "gate.decided"
    }  # fmt: skip
    for row in store.rows(select(decisions)):
        said = decided.pop(row.gate, None)
        if said is None or (differing := _differing(row, said)):
            what = f" (see its {differing})" if said else ""
            yield Finding(f"gate {row.gate}", f"its decision is not the one in the ledger{what}", REMEDY)
    for gate in decided:
        yield Finding(f"gate {gate}", "the ledger has a decision that the table has lost", REMEDY)


def _votes(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    given = {
        (e.payload["gate"], e.actor): {"reason": e.payload["reason"], "evidence_digest": e.payload["evidence"]}
        for e in recorded
        if e.kind == "gate.voted"
    }
    yield from compare(store.rows(select(votes)), lambda row: (row.gate, row.approver), given, "vote")


def _versions(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """What a version is, and the status it was given last."""
    expected: dict[str, dict[str, Any]] = {}
    for event in recorded:
        room, _, act = event.kind.partition(".")
        if (room != "version" or act not in ("base", "candidate")) and event.kind not in (
            "checkpoint.approved",
            "checkpoint.declined",
        ):
            continue
        address = f"{event.payload['policy']}@{event.payload['version']}"
        if room == "version":
            said = {key: event.payload[key] for key in ("digest", "round", "parent")}
            expected[address] = {**said, "campaign": event.subject, "status": act}
        else:
            expected[address]["status"] = act
    rows = store.rows(select(versions))
    yield from compare(rows, lambda row: f"{row.policy}@{row.version}", expected, "version")
    # Of versions older than this record nothing is said about their lineage.
    lineages = {
        (e.payload["policy"], e.payload["version"]): e.payload["lineage"]
        for e in recorded
        if e.kind.startswith("version.") and "lineage" in e.payload
    }
    for row in rows:
        found = _digest(row.lineage)
        if found is None or found != lineages.get((row.policy, row.version), found):
            yield Finding(f"version {row.policy}@{row.version}", "its lineage is not the one it was registered with", REMEDY)


def _kept(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Where each campaign's next round starts, replayed from settled rounds and rollbacks."""
    settled = {(row.campaign, row.round): row for row in store.rows(select(stages).where(stages.c.stage == "settle"))}
    kept: dict[str, int | None] = {}
    active: dict[str, str] = {}
    for event in recorded:
        said = event.payload
        if event.kind == "campaign.started":
            kept[event.subject], active[event.subject] = None, said["policy"]
        elif event.kind in ("campaign.finished", "campaign.stopped"):
            active.pop(event.subject, None)
        elif event.kind == "rolled-back":
            kept |= {name: said["to"] for name, policy in active.items() if policy == said["policy"]}
        elif event.kind == "stage.done" and said["stage"] == "settle":
            row = settled.get((event.subject, said["round"]))
            if row is None or _digest(row.output) != said["output"]:
                kept.pop(event.subject, None)  # `_stages` says so, and nothing can be told from it
            elif event.subject in kept:
                kept[event.subject] = json.loads(row.output)["kept"]
    for row in store.rows(select(campaigns)):
        if row.kept_version != kept.get(row.name, row.kept_version):
            where = "nothing" if row.kept_version is None else f"version {row.kept_version}"
            right = "the base" if kept[row.name] is None else f"version {kept[row.name]}"
            what = f"its next round would start from {where}, in the ledger it is {right}"
            yield Finding(f"campaign {row.name}", what, REMEDY)


def _checkpoints(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    """Where each checkpoint's files lie, and which model in MLflow they are."""
    saved = {
        e.subject: {"kind": e.payload["kind"], "model_id": e.payload["model"], "location": e.payload["location"]}
        for e in recorded
        if e.kind == "checkpoint.saved"
    }
    yield from compare(store.rows(select(checkpoints)), lambda row: row.digest, saved, "checkpoint")


def _labels(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    created = {e.payload["batch"]: e for e in recorded if e.kind == "batch.created"}
    by_simulation = {e.payload["batch"]: e.actor for e in recorded if e.kind == "labels.simulated"}
    kinds = {row.name: json.loads(row.config)["labels"]["annotators"] for row in store.rows(select(campaigns))}
    expected = {
        name: {"campaign": e.subject, **{key: e.payload[key] for key in ("round", "size", "digest")}}
        for name, e in created.items()
    }
    rows = store.rows(select(batches))
    yield from compare(rows, lambda row: row.id, expected, "batch")
    for row in rows:
        ours = row.attempt > 0 and row.id == batch_id(row.campaign, row.round, row.attempt)
        if not ours and row.id != imported_batch_id(row.campaign, row.round, row.attempt):
            yield Finding(f"batch {row.id}", f"its attempt {row.attempt} is not the one it was made for", REMEDY)
        elif row.annotators != (kinds.get(row.campaign) if ours else "human"):
            yield Finding(f"batch {row.id}", f"it was not made for {row.annotators} annotators", REMEDY)
        items = store.rows(
            select(comparisons).where(comparisons.c.batch == row.id).order_by(comparisons.c.position)
        )
        if row.id in created and created[row.id].payload["digest"] != digest_of([dict(item._mapping) for item in items]):
            yield Finding(f"batch {row.id}", "its comparisons are not those that were made", REMEDY)
    given = {
        (e.payload["comparison"], e.actor, e.payload["revision"]): (e.payload["verdict"], e.payload["left"])
        for e in recorded
        if e.kind == "label.given"
    }
    imported = {row.label for row in store.rows(select(imported_labels.c.label))}  # see `recorded_labels`
    simulated: dict[str, list[list[str]]] = {}
    for row in store.rows(select(labels).order_by(labels.c.id)):
        if row.id in imported:
            continue
        if row.annotator_kind == "simulated":
            batch = row.comparison.rpartition(".")[0]
            simulated.setdefault(batch, []).append([row.comparison, row.verdict, row.left_side])
            if (row.annotator, row.revision) != (by_simulation.get(batch, row.annotator), 1):
                yield Finding(f"label {row.id}", "its annotator or revision is not the one in the ledger", REMEDY)
        elif given.pop((row.comparison, row.annotator, row.revision), None) != (row.verdict, row.left_side):
            yield Finding(f"label {row.id}", "it is not the one in the ledger", REMEDY)
    for comparison, annotator, _ in given:
        yield Finding(f"label of {annotator} on {comparison}", "the table has lost it", REMEDY)
    for batch in simulated.keys() - by_simulation:
        yield Finding(f"labels of {batch}", "some are said to be simulated, but no event in the ledger made them", REMEDY)
    for event in recorded:
        if event.kind == "labels.simulated" and event.payload["digest"] != digest_of(
            simulated.get(event.payload["batch"], [])
        ):
            yield Finding(f"labels of {event.payload['batch']}", "they are not those in the ledger", REMEDY)


def _aliases(store: Store, recorded: Sequence[Event]) -> Iterator[Finding]:
    replayed: dict[tuple[str, str], int] = {}
    for event in recorded:
        if event.kind == "alias.moved":
            key = (event.subject, event.payload["alias"])
            if event.payload["to"] is None:
                replayed.pop(key, None)
            else:
                replayed[key] = event.payload["to"]
    for policy in sorted({v.policy for v in list_versions(store)} | {p for p, _ in replayed}):
        expected = {alias: version for (p, alias), version in replayed.items() if p == policy}
        if list_aliases(store, policy) != expected:
            yield Finding(f"aliases of {policy}", "they are not where the ledger's events put them", REMEDY)


#: What is compared, under the name that stands for it where a check cannot even be made.
ROW_CHECKS: dict[str, Callable[[Store, Sequence[Event]], Iterator[Finding]]] = {
    "campaigns": _campaigns,
    "stages": _stages,
    "gates": _gates,
    "decisions": _decisions,
    "votes": _votes,
    "versions": _versions,
    "checkpoints": _checkpoints,
    "kept versions": _kept,
    "labels": _labels,
    "aliases": _aliases,
}
