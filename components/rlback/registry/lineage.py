"""Where a checkpoint comes from: everything the ledger knows about one version, as one tree."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import func, select

from rlback.labelling.batches import stands
from rlback.ledger.store import Store
from rlback.ledger.tables import batches, campaigns, comparisons, gates, labels, stages
from rlback.project import Project
from rlback.registry.break_glass import broken
from rlback.registry.gates import find_gate
from rlback.registry.operations import Version, get_version, list_aliases


def audit(project: Project, version: Version) -> dict[str, Any]:
    """The lineage of a version, back to the base policy.

    Data version and digest, labels and annotators, reward model, parents, configuration, code, libraries,
    decisions with the digest of their evidence, rollbacks on the way, and the ledger's events behind it.
    """
    store = project.store
    row = store.first(select(campaigns).where(campaigns.c.name == version.campaign))
    path = [version]
    while path[-1].parent is not None:
        path.append(get_version(store, version.policy, path[-1].parent))
    held = list_aliases(store, version.policy)
    return {
        "checkpoint": version.address,
        "digest": version.digest,
        "status": version.status,
        "aliases": sorted(alias for alias, number in held.items() if number == version.version),
        "mlflow_model": version.model_id,
        "location": version.location,
        "created": version.created,
        "campaign": {
            "name": version.campaign,
            "started_by": row.started_by,
            "config_digest": row.config_digest,
            "config": json.loads(row.config),
            "inputs": json.loads(row.inputs),
        },
        "code": version.lineage.get("code"),
        "libraries": version.lineage.get("libraries"),
        "data": _data(store, version),
        "reward_model": _reward_model(store, version),
        "break_glass": [b for b in broken(store) if b["candidate"] in {v.address for v in path}],
        "parents": [
            {"checkpoint": v.address, "digest": v.digest, "status": v.status, "round": v.round} for v in path[1:]
        ],
        "acts": _acts(store, version),
        "rounds": [_round(store, version.campaign, number) for number in range(1, version.round + 1)],
        "events": [
            {"seq": e.seq, "time": e.time, "kind": e.kind, "actor": f"{e.actor} ({e.actor_kind})", "payload": e.payload}
            for e in _events(store, version)
        ],
    }


def _output(store: Store, campaign: str, round_: int, stage: str) -> dict[str, Any] | None:
    row = store.first(
        select(stages.c.output)
        .where(stages.c.campaign == campaign, stages.c.round == round_, stages.c.stage == stage)
        .order_by(stages.c.attempt.desc())
    )
    return json.loads(row.output) if row else None


def _data(store: Store, version: Version) -> dict[str, Any]:
    source = _output(store, version.campaign, 0, "data") or {}
    return {
        "source": {key: source[key] for key in ("data_version", "sha256", "files") if key in source},
        "labels": version.lineage.get("snapshot") or None,
    }


def _reward_model(store: Store, version: Version) -> dict[str, Any] | None:
    digest = version.lineage.get("reward_model")
    if digest is None:
        return None
    fits = store.rows(
        select(stages.c.round, stages.c.output).where(
            stages.c.campaign == version.campaign, stages.c.stage == "fit_reward"
        )
    )
    for fit in fits:
        output = json.loads(fit.output)
        if output["digest"] == digest:
            keys = ("pairs", "given", "verdicts", "snapshot", "metrics", "held_out")
            return {"digest": digest, "fitted_after_round": fit.round, **{key: output[key] for key in keys}}
    return {"digest": digest}


def _round(store: Store, campaign: str, number: int) -> dict[str, Any]:
    settled = _output(store, campaign, number, "settle") or {}
    optimised = _output(store, campaign, number, "optimise") or {}
    found = []
    for row in store.rows(select(gates.c.id).where(gates.c.campaign == campaign, gates.c.round == number)):
        gate = find_gate(store, row.id)
        decision = gate.decision or {}
        closed_by, why = (None, None) if gate.decision else _closed(store, campaign, gate.id)
        found.append(
            {
                "gate": gate.id,
                "state": gate.state,
                "evidence": gate.digest,
                "statistics": gate.evidence["statistics"],
                "verdict": decision.get("verdict"),
                "approver": decision.get("approver"),
                "approver_kind": decision.get("approver_kind"),
                "reason": decision.get("reason") or why,
                "closed_by": closed_by,
                "time": decision.get("time"),
            }
        )
    annotators = store.rows(
        select(labels.c.annotator, labels.c.annotator_kind, func.count(func.distinct(labels.c.comparison)).label("n"))
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .join(batches, comparisons.c.batch == batches.c.id)
        .where(batches.c.campaign == campaign, batches.c.round == number, stands())
        .group_by(labels.c.annotator, labels.c.annotator_kind)
    )
    return {
        "round": number,
        "start": optimised.get("start"),
        "candidate": optimised.get("version"),
        "decision": settled.get("decision", "open"),
        "rolled_back": settled.get("rolled_back", False),
        "kept": settled.get("kept"),
        "labels": [{"annotator": a.annotator, "kind": a.annotator_kind, "labels": a.n} for a in annotators],
        "gates": found,
    }


def _acts(store: Store, version: Version) -> list[dict[str, Any]]:
    """What people did with this version beyond its gate, the oldest first: into service, out of it, back to it and from it."""
    found = []
    for e in _events(store, version):
        said = e.payload
        if said.get("policy") != version.policy:
            continue
        if e.kind in ("checkpoint.deployed", "checkpoint.withdrawn") and said["version"] == version.version:
            what = "deployed" if e.kind == "checkpoint.deployed" else "taken out of service"
        elif e.kind == "rolled-back" and "reason" in said and version.version in (said["to"], said.get("from")):
            there = said["to"] == version.version
            what = "rolled back to it" if there else f"rolled back from it to {version.policy}@{said['to']}"
        else:
            continue
        found.append({"what": what, "by": f"{e.actor} ({e.actor_kind})", "time": e.time, "reason": said["reason"], "seq": e.seq})
    return found


def _closed(store: Store, campaign: str, gate: str) -> tuple[str | None, str | None]:
    """Who let a gate end without a decision, and why; (None, None) where it did not."""
    for e in store.events(campaign):
        if e.kind in ("gate.expired", "gate.superseded") and e.payload["gate"] == gate:
            return f"{e.actor} ({e.actor_kind})", e.payload.get("reason")
    return None, None


def _events(store: Store, version: Version) -> list[Any]:
    """The campaign's events up to the one that settled this version's round, and the policy's alias moves."""
    # By number: a campaign may be called like its policy.
    events = {event.seq: event for name in (version.campaign, version.policy) for event in store.events(name)}
    return [events[seq] for seq in sorted(events)]
