"""A policy's checkpoints in order, the tree of its rounds, what was approved on a day, and going back."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.campaign.plan import Recorded
from rlback.campaign.summary import method_figures
from rlback.errors import RlbackError
from rlback.evaluation.round_tree import tree_figure
from rlback.ledger.chain import Event
from rlback.records import REASON_CHARS
from rlback.registry.gates import open_gates
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import Version, get_version, list_aliases, list_versions
from rlback.registry.rollback import roll_back
from rlback.web.answers import done, page
from rlback.web.refusals import Refused, require_typed
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@router.get("/policies/{policy}", summary="A policy's checkpoints, rollbacks, and what was approved on a day")
def timeline(request: Request, policy: str, on: str = "") -> Response:
    """Newest first; `on` (YYYY-MM-DD) asks what was approved and deployed at the end of that day, UTC."""
    visit = visit_of(request)
    visit.require("look")
    versions = _versions(visit, policy)
    if on and not _DAY.fullmatch(on):
        raise Refused(422, f"{on[:20]!r} is no day", remedy="write YYYY-MM-DD")
    events = visit.store.events(policy)
    told = _told(visit, versions, events)
    held = list_aliases(visit.store, policy)
    data = {
        "policy": policy,
        "aliases": {alias: f"{policy}@{number}" for alias, number in sorted(held.items())},
        "entries": entries(visit, policy, versions, told),
        "on": on,
        "held_then": _held_on(policy, events, on) if on else None,
        "who_then": _who_on(policy, told, on) if on else [],
        "may_roll_back": visit.may("roll-back"),
        "may_deploy": visit.may("deploy"),
    }
    return page(request, "timeline.html", f"Policy {policy}", data, **_figures(visit, policy))


@router.get("/policies/{policy}/{number}/roll-back", summary="What going back to a checkpoint would do (a dry run)")
def plan(request: Request, policy: str, number: int) -> Response:
    """The plan, made by the operation itself without moving anything; files are checked against the digest."""
    visit = visit_of(request)
    visit.require("look")
    target = get_version(visit.store, policy, version_number(number))
    lines, refused = _dry_run(visit, target)
    data = {
        "checkpoint": target.address, "digest": target.digest, "status": target.status, "plan": lines, "refused": refused,
        "may_roll_back": visit.may("roll-back"), "reason_chars": REASON_CHARS,
    }  # fmt: skip
    return page(request, "roll_back.html", f"Roll back to {target.address}", data, status=200)


@router.post("/policies/{policy}/{number}/roll-back", summary="Go back to a checkpoint")
def go_back(request: Request, policy: str, number: int, sent: Sent) -> Response:
    """Takes a reason, and the checkpoint's address typed out as confirmation."""
    visit = visit_of(request)
    user = visit.require("roll-back")
    target = get_version(visit.store, policy, version_number(number))
    require_typed(sent.one("confirm", most=200), target.address)
    done_ = roll_back(
        visit.project, MlflowStore(visit.project.root), target, user.actor, sent.one("reason", most=REASON_CHARS),
        permit=visit.still("roll-back"),
    )  # fmt: skip
    visit.console.kick()
    return done(request, {"target": target.address, "digest": target.digest, "plan": done_}, f"/policies/{policy}", "rolled-back")


def version_number(number: int) -> int:
    """A version's number from an address; refused where there can be none of it."""
    if not 0 < number < 10**9:
        raise Refused(404, "there is no such version", remedy="the policy's page lists those there are")
    return number


def _versions(visit: Visit, policy: str) -> list[Version]:
    found = list_versions(visit.store, policy)
    if not found:
        raise Refused(404, f"there is no policy {policy[:60]}", remedy="the start page lists those there are")
    return found


def _dry_run(visit: Visit, target: Version) -> tuple[list[str], str | None]:
    try:
        mirror = MlflowStore(visit.project.root)
        return roll_back(visit.project, mirror, target, visit.require().actor, "dry run", dry_run=True), None
    except RlbackError as error:
        return [], error.message


def _told(visit: Visit, versions: list[Version], events: list[Event]) -> list[Event]:
    """The policy's events with those of its campaigns, in order. By number: a campaign may be called like its policy."""
    told = {e.seq: e for e in events} | {e.seq: e for name in {v.campaign for v in versions} for e in visit.store.events(name)}
    return [told[seq] for seq in sorted(told)]


def entries(visit: Visit, policy: str, versions: list[Version], told: list[Event]) -> list[dict[str, Any]]:
    """Checkpoints and rollbacks, newest first; `told` are the events of the policy and of its campaigns."""
    held = list_aliases(visit.store, policy)
    found: list[dict[str, Any]] = [
        {"what": "checkpoint", "time": v.created, "version": v.version, "checkpoint": v.address, "digest": v.digest,
         "status": v.status, "parent": f"{policy}@{v.parent}" if v.parent else None, "campaign": v.campaign, "round": v.round,
         "aliases": sorted(a for a, n in held.items() if n == v.version),
         "can_go_back": v.status in ("approved", "base")}
        for v in versions
    ]  # fmt: skip
    declined = {
        e.payload["version"]: e.payload.get("reason", "")
        for e in told
        if e.kind == "checkpoint.declined" and e.payload.get("policy") == policy
    }
    for event in told:
        if event.kind == "rolled-back" and event.payload.get("policy") == policy:
            moved = event.payload
            by_hand = "reason" in moved  # a decline's reason is that of the decline
            found.append(
                {"what": "rollback", "time": event.time, "seq": event.seq, "actor": event.actor, "actor_kind": event.actor_kind,
                 "from": f"{policy}@{moved['from']}" if moved.get("from") else None, "to": f"{policy}@{moved['to']}",
                 "reason": moved["reason"] if by_hand else declined.get(moved.get("from"), ""), "by_hand": by_hand}
            )  # fmt: skip
    return sorted(found, key=lambda e: (e["time"], e.get("seq", 0)), reverse=True)


def _held_on(policy: str, events: list[Event], day: str) -> dict[str, str | None]:
    """Aliases at the end of a day, replayed from the ledger."""
    then: dict[str, str | None] = {"approved": None, "deployed": None}
    for event in events:
        if event.kind == "alias.moved" and event.time[:10] <= day and event.payload["alias"] in then:
            to = event.payload["to"]
            then[event.payload["alias"]] = f"{policy}@{to}" if to is not None else None
    return then


def _who_on(policy: str, told: list[Event], day: str) -> list[dict[str, Any]]:
    """For each alias at the end of a day: who put it where it was, and who approved that checkpoint, at which gate."""
    then: dict[str, dict[str, Any]] = {}
    approved: dict[int, dict[str, Any]] = {}
    for event in told:
        said = event.payload
        if event.time[:10] > day:
            continue
        if event.kind == "checkpoint.approved" and said["policy"] == policy:
            approved[said["version"]] = {"approved_by": event.actor, "gate": said.get("gate"), "approved": event.time}
        elif event.kind == "alias.moved" and event.subject == policy and said["alias"] in ("approved", "deployed"):
            kept = {"by": event.actor, "since": event.time, "reason": said.get("reason", "")}
            then[said["alias"]] = {"version": said["to"], **kept}
    nobody = {"approved_by": None, "gate": None, "approved": None}
    return [
        {"alias": alias, "checkpoint": f"{policy}@{of['version']}", **of, **approved.get(of["version"], nobody)}
        for alias, of in sorted(then.items()) if of["version"] is not None
    ]  # fmt: skip


def _figures(visit: Visit, policy: str) -> dict[str, str]:
    """The tree of rounds, drawn wide and narrow. Gold is taken out: an approver does not see it."""
    methods: dict[str, Any] = {}
    base = None
    for name in sorted({v.campaign for v in list_versions(visit.store, policy)}):
        recorded = load_recorded(visit.project, name)
        if (0, "base", 1) not in recorded:
            continue
        figures = method_figures(visit.project, name)
        rounds = [{**r, "gold": None, "start_gold": None} for r in figures["rounds"]]
        rounds += _waiting_round(visit, policy, name, recorded, len(rounds))
        if rounds:
            base = base or {"name": f"{policy}@{recorded[(0, 'base', 1)]['version']}", "gold": None}
            methods[name] = {**figures, "label": name, "gold": None, "rounds": rounds, "curve": []}
    if base is None:
        return {"tree_wide": "", "tree_narrow": ""}
    data = {"base": base, "methods": methods}
    return {
        "tree_wide": tree_figure(data, width=900, uid="tree-wide"),
        "tree_narrow": tree_figure(data, width=340, uid="tree-narrow"),
    }


def _waiting_round(visit: Visit, policy: str, campaign: str, recorded: Recorded, settled: int) -> list[dict[str, Any]]:
    """The round at an open gate, for the drawing."""
    row = machine.load_campaign(visit.project, campaign)
    for gate in open_gates(visit.store):
        if gate.campaign == campaign and row.state == "active" and gate.round > settled:
            return [
                {"round": gate.round, "start": gate.evidence["start"]["address"],
                 "candidate": gate.evidence["candidate"]["address"], "decision": "waiting", "reason": "", "by": "",
                 "win_rate": gate.evidence["statistics"].get("win_rate"), "gold": None, "start_gold": None}
            ]  # fmt: skip
    return []
