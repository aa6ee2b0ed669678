"""The gate: everything an approver goes by on one page, and the decision bound to exactly that."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any, cast

from fastapi import APIRouter, Request
from sqlalchemy import select
from starlette.responses import Response

from rlback.accounts.users import list_users
from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.campaign.deadlines import deadline_of
from rlback.campaign.deciding import decide_as_person, decline_plan
from rlback.campaign.gate_samples import why_shown
from rlback.campaign.plan import newest_batch
from rlback.labelling.batches import batch_id
from rlback.ledger.tables import gates, stages
from rlback.records import REASON_CHARS, seed_of
from rlback.registry import quorum
from rlback.registry.break_glass import broken
from rlback.registry.difference import difference
from rlback.registry.four_eyes import LABEL_SHARE, objection_now
from rlback.registry.gates import Gate, GateVerdict, find_gate
from rlback.registry.operations import resolve
from rlback.web.answers import done, page
from rlback.web.refusals import Refused, whole_digest
from rlback.web.turns import shown_completion, shown_prompt
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
SAMPLE_CHARS = 4_000
VERDICTS = ("approve", "decline", "more-labels")


@router.get("/gates", summary="Every gate, open ones first")
def listing(request: Request) -> Response:
    """Gates with their state and decision."""
    visit = visit_of(request)
    visit.require("look")
    rows = visit.store.rows(select(gates.c.id).order_by((gates.c.state != "open"), gates.c.opened.desc()).limit(200))
    found = []
    for row in rows:
        gate = find_gate(visit.store, row.id)
        found.append(
            {"gate": gate.id, "state": gate.state, "candidate": gate.evidence["candidate"]["address"], "opened": gate.opened,
             "decision": _decision(gate)}
        )  # fmt: skip
    return page(request, "gates.html", "Gates", {"gates": found})


@router.get("/gates/{id_}", summary="The evidence at a gate, with its digest and what each decision would do")
def show(request: Request, id_: str) -> Response:
    """What replaces what, the verdict table, statistics, samples, and the plan of a decline."""
    visit = visit_of(request)
    user = visit.require("look")
    gate = find_gate(visit.store, id_)
    why = None
    if gate.state == "open":
        why = objection_now(visit.store, gate.campaign, gate.round, user.name)
    approver = machine.config_of(machine.load_campaign(visit.project, gate.campaign)).gate.approver
    data = {
        "gate": gate.id, "campaign": gate.campaign, "round": gate.round, "attempt": gate.attempt, "state": gate.state,
        "opened": gate.opened, "digest": gate.digest, "candidate": gate.evidence["candidate"],
        "start": gate.evidence["start"], "reward_model": gate.evidence["reward_model"], "labels": gate.evidence["labels"],
        "verdicts": verdict_table(visit, gate), "monitors": monitors(visit, gate),
        "samples": samples(gate), "tools": any("answers" in s for s in gate.evidence["samples"]), "decision": _decision(gate),
        "batch": _batch(visit, gate) if gate.evidence["labels"]["count"] else None,
        "approver_kind": approver, "may_decide": visit.may("decide") and approver == "human", "objection": why,
        "could_approve": could_approve(visit, gate) if gate.state == "open" and approver == "human" else [],
        "label_share": LABEL_SHARE, "decline_plan": decline_plan(visit.project, gate) if gate.state == "open" else [],
        "reason_chars": REASON_CHARS, **rules(visit, gate), "difference": _difference(visit, gate),
        "glass": next((b for b in broken(visit.store) if b["gate"] == gate.id), None),
        "may_break_glass": visit.may("break-glass") and gate.state == "open" and approver == "human",
    }  # fmt: skip
    return page(request, "gate.html", f"Gate {gate.id}", data)


@router.post("/gates/{id_}/decision", summary="Decide, on the evidence with this digest; the first decision stands")
def decide(request: Request, id_: str, sent: Sent) -> Response:
    """`verdict` approve, decline or more-labels; `digest` in full; `reason` where it does not approve."""
    visit = visit_of(request)
    user = visit.require("decide")
    verdict = sent.one("verdict", most=20)
    if verdict not in VERDICTS:
        raise Refused(422, f"{verdict!r} is no verdict", remedy=f"one of {', '.join(VERDICTS)}")
    digest = whole_digest(sent.one("digest", most=64))
    gate = decide_as_person(
        visit.project, id_, cast(GateVerdict, verdict), user.actor, digest=digest,
        reason=sent.one("reason", most=REASON_CHARS), permit=visit.still("decide"),
    )  # fmt: skip
    visit.console.kick()
    body = {
        "gate": gate.id, "state": gate.state, "decision": _decision(gate), "next": f"rlback advance {gate.campaign}",
        **rules(visit, gate),
    }  # fmt: skip
    return done(request, body, f"/gates/{gate.id}", "voted" if gate.state == "open" else verdict)


def rules(visit: Visit, gate: Gate) -> dict[str, Any]:
    """How many approvals of whom are needed and given, and when a decision is overdue."""
    due = deadline_of(visit.project, gate)
    config = machine.config_of(machine.load_campaign(visit.project, gate.campaign)).gate
    return {
        "quorum": quorum.standing(visit.store, gate.id, gate.campaign, gate.round, gate.digest),
        "deadline": due and due.isoformat(timespec="minutes"), "overdue": due is not None and datetime.now(UTC) > due,
        "on_deadline": config.on_deadline if due else None,
    }  # fmt: skip


def _difference(visit: Visit, gate: Gate) -> list[dict[str, Any]]:
    """What made the candidate, against what made the checkpoint it would replace."""
    old, new = (resolve(visit.store, gate.evidence[side]["address"]) for side in ("start", "candidate"))
    return difference(visit.project, old, new)


def verdict_table(visit: Visit, gate: Gate) -> list[dict[str, Any]]:
    """Metric, old, new, threshold and whether it is met; `ok` is None where the campaign sets no threshold."""
    found, measured, rule = gate.evidence["statistics"], gate.evidence["measured"], gate.evidence["rule"]
    old = _measured_of(visit, gate.evidence["start"]["address"], gate.campaign)
    rows: list[dict[str, Any]] = []

    def row(metric: str, new: Any, note: str, *, before: Any = None, threshold: str = "", ok: bool | None = None) -> None:
        rows.append({"metric": metric, "old": before, "new": new, "threshold": threshold, "ok": ok, "note": note})

    if found:
        rate = found["win_rate"]
        row(
            "win rate over start, by people", rate, "ties count one half, skips not at all", before=0.5,
            threshold=f"at least {rule['at_least']:.2f}", ok=rate["n"] > 0 and rate["value"] >= rule["at_least"],
        )  # fmt: skip
        for key, name in (("agreement_cross", "reward model agrees with people, candidate against start"),
                          ("agreement_inside", "reward model agrees with people, inside the candidate")):  # fmt: skip
            if found[key]:
                row(name, found[key], "one half is chance")
        if found["overclaim"] is not None:
            more = "reward that people did not confirm" if found["overclaim"] > 0 else "people confirm the reward"
            row("overclaim", found["overclaim"], more)
        for held in gate.evidence["labels"].get("quarantined", ()):
            row(f"labels of {held['annotator']} in quarantine, not counted", held["labels"], f"{held['by']}: {held['reason']}")
        row("ties", found["ties"], "")
        row("skips", found["skips"], "")
    row("KL from start, nats a completion", measured["kl_ref"], "how far this round moved the policy", before=0.0)
    row("KL from base, nats a completion", measured["kl_base"], "how far all rounds moved it", before=old.get("kl_base"))
    if measured["proxy"] is not None:
        row("proxy reward", measured["proxy"], "standard deviations above base samples", before=old.get("proxy"))
    row("completions that ended", measured["finished"], "share", before=old.get("finished"))
    return rows


def monitors(visit: Visit, gate: Gate) -> list[dict[str, Any]]:
    """What was watched while this candidate was optimised; gold, which only a simulation knows, is not among it."""
    column = stages.c
    row = visit.store.first(
        select(column.output, column.seconds).where(
            column.campaign == gate.campaign, column.round == gate.round, column.stage == "optimise"
        )
    )
    if row is None:
        return []
    output = json.loads(row.output)
    shown = (
        ("optimiser steps", output.get("steps")), ("ended by", output.get("stopped")),
        ("KL from start at the last step, nats a completion", output.get("kl_ref_last")),
        ("proxy reward at the last step", output.get("proxy_last")), ("seconds", row.seconds),
    )  # fmt: skip
    return [{"name": name, "value": value} for name, value in shown if value is not None]


def _measured_of(visit: Visit, address: str, campaign: str) -> dict[str, Any]:
    """What was measured when the start checkpoint was a candidate itself; the base is where KL and proxy are zero.

    Only what an approver may see: gold stays out.
    """
    query = select(gates.c.evidence).where(gates.c.campaign == campaign).order_by(gates.c.opened)
    found: dict[str, Any] = {}
    for row in visit.store.rows(query):
        evidence = json.loads(row.evidence)
        if evidence["candidate"]["address"] == address:
            found = evidence["measured"]
    if not found:
        base = visit.store.first(select(stages.c.output).where(stages.c.campaign == campaign, stages.c.stage == "base"))
        if base is not None and address.endswith(f"@{json.loads(base.output)['version']}"):
            found = {"kl_base": 0.0, "proxy": 0.0}
    return found


def samples(gate: Gate) -> list[dict[str, Any]]:
    """Samples side by side, left and right drawn from the evidence's digest; `left` says which until revealed."""
    draw = random.Random(seed_of(gate.digest, "sides"))
    found = []
    for number, sample in enumerate(gate.evidence["samples"], 1):
        written = sample.get("answers", {})
        ended = dict(zip(("candidate", "start"), sample.get("finished", (True, True)), strict=True))
        order = ["candidate", "start"] if draw.random() < 0.5 else ["start", "candidate"]
        found.append(
            {"number": number, "why": why_shown(sample), "prompt": shown_prompt(sample["prompt"], SAMPLE_CHARS),
             "sides": [
                 {"of": side, "finished": ended[side],
                  **shown_completion(sample[side], written.get(side, ()), SAMPLE_CHARS)} for side in order
             ]}
        )  # fmt: skip
    return found


def could_approve(visit: Visit, gate: Gate) -> list[dict[str, Any]]:
    """Who could approve now: everybody with the permission, with what stands against it."""
    return [
        {"name": user.name, "objection": objection_now(visit.store, gate.campaign, gate.round, user.name)}
        for user in list_users(visit.store)
        if "decide" in user.permissions
    ]


def _batch(visit: Visit, gate: Gate) -> str:
    """The newest batch behind the evidence; a gate that follows a superseded one has none of its own."""
    return batch_id(gate.campaign, gate.round, newest_batch(load_recorded(visit.project, gate.campaign), gate.round))


def _decision(gate: Gate) -> dict[str, Any] | None:
    if gate.decision is None:
        return None
    keys = ("verdict", "approver", "approver_kind", "reason", "evidence_digest", "time")
    return {key: gate.decision[key] for key in keys}
