"""Flow runs and schedules: what runs, what failed and why, what comes next; start, try again, cancel.

Prefect is asked over its API while it is up. Where it is not, the page says so and what to type; everything else in
the console goes on without it.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.campaign import machine
from rlback.campaign.plan import Finished
from rlback.campaign.standing import running_line
from rlback.errors import RlbackError
from rlback.orchestration.delivering import outbox_counts, pending
from rlback.orchestration.prefect_api import TEND, UNDER_WAY, UP, WAITING, FlowRun, PrefectApi, PrefectAway, connect
from rlback.orchestration.running import answers, running_services
from rlback.orchestration.schedule import LEAST_S, MOST_S, change, current, keep_planned, next_times
from rlback.orchestration.waking import is_held, wake
from rlback.project import Project
from rlback.records import Actor
from rlback.web.answers import done, page
from rlback.web.refusals import Refused
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
LAST, NEXT = 20, 5
EXPLAINED = 5  # failed runs whose log is asked for
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@router.get("/runs", summary="Flow runs: what runs, what failed and why, what comes next")
def runs(request: Request) -> Response:
    """Campaigns and whether they can go on, the last runs, the next times of the schedule, the outbox."""
    visit = visit_of(request)
    visit.require("look")
    data: dict[str, Any] = {
        "prefect": {"up": False, "url": None, "why": None, "type": UP}, "mlflow": _mlflow(visit.project),
        "campaigns": [_campaign(visit.project, name) for name in machine.active_campaigns(visit.project)],
        "runs": [], "next": [], "served": False, "schedule": _schedule(visit.project), "may_run": visit.may("run"),
        "outbox": {"counts": outbox_counts(visit.project), "waiting": pending(visit.project)},
    }  # fmt: skip
    try:
        api = connect(visit.project)
        data |= _asked(api)
        data["prefect"] = {"up": True, "url": api.url.removesuffix("/api") + "/", "why": None, "type": None}
    except RlbackError as error:
        data["prefect"] = {"up": False, "url": None, "why": error.message, "type": error.remedy or UP}
    return page(request, "runs.html", "Runs", data)


@router.post("/runs/start", summary="Start the flow run that carries a campaign on")
def start(request: Request, sent: Sent) -> Response:
    """Takes the campaign; refused where it waits for a person, or is carried on already."""
    visit = visit_of(request)
    user = visit.require("run")
    run = _start(visit, sent.one("campaign", most=60), user.actor)
    return done(request, {"run": run.id, "campaign": run.name}, "/runs", "started")


@router.post("/runs/{id_}/retry", summary="Carry on the campaign of a flow run that failed")
def retry(request: Request, id_: str, sent: Sent) -> Response:
    """A new flow run: what the failed one recorded is not done again."""
    visit = visit_of(request)
    user = visit.require("run")
    old = _found(visit, id_)
    if old.campaign is None:
        raise Refused(409, f"the flow run {old.name} is of no campaign", remedy="the schedule starts the next one by itself")
    run = _start(visit, old.campaign, user.actor)
    return done(request, {"run": run.id, "campaign": old.campaign}, "/runs", "started")


@router.post("/runs/{id_}/cancel", summary="Cancel a flow run")
def cancel(request: Request, id_: str, sent: Sent) -> Response:
    """A stage under way is ended; the campaign can be carried on from what it recorded."""
    visit = visit_of(request)
    user = visit.require("run")
    run = _found(visit, id_)
    if run.state not in (*UNDER_WAY, *WAITING):
        raise Refused(409, f"the flow run {run.name} has ended already ({run.state_name})", remedy="start another")
    _api(visit).cancel(run.id)
    subject = run.campaign or run.name
    with visit.store.transaction() as transaction:
        visit.still("run")(transaction)
        transaction.event("flow-run.cancelled", subject, user.actor, {"run": run.id, "was": run.state_name})
    return done(request, {"run": run.id, "cancelled": True}, "/runs", "cancelled")


@router.post("/runs/schedule", summary="How often waiting campaigns are advanced: every N minutes, pause, resume")
def schedule(request: Request, sent: Sent) -> Response:
    """`act` every (with `minutes`), pause or resume. It holds at once, and after the next `rlback up` too."""
    visit = visit_of(request)
    user = visit.require("run")
    act, every, paused = sent.one("act", most=20), None, None
    if act == "every":
        every = _seconds(sent.one("minutes", most=20))
    elif act in ("pause", "resume"):
        paused = act == "pause"
    else:
        raise Refused(422, f"{act!r} is no change of the schedule", remedy="one of every, pause, resume")
    held = change(visit.project, user.actor, every=every, paused=paused, permit=visit.still("run"))
    # Where no Prefect answers, the worker plans the times when it is up; the choice is on record either way.
    with suppress(RlbackError):
        keep_planned(connect(visit.project), held, time.time())
    return done(request, _schedule(visit.project), "/runs", "schedule")


def _seconds(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not math.isfinite(minutes):
        raise Refused(422, f"{text[:20]!r} is no number of minutes", remedy="a number like 3")
    return minutes * 60


def _api(visit: Visit) -> PrefectApi:
    try:
        return connect(visit.project)
    except PrefectAway as error:
        raise Refused(503, error.message, remedy=error.remedy) from None


def _found(visit: Visit, id_: str) -> FlowRun:
    if not _ID.fullmatch(id_):
        raise Refused(404, "there is no such flow run", remedy="/runs lists those there are")
    api = _api(visit)
    try:
        return api.run(id_)
    except PrefectAway as error:
        raise Refused(503, error.message, remedy=error.remedy) from None
    except RlbackError:
        raise Refused(404, "there is no such flow run", remedy="/runs lists those there are") from None


def _start(visit: Visit, campaign: str, actor: Actor) -> FlowRun:
    standing = _campaign(visit.project, campaign)
    if not standing["can_start"]:
        raise Refused(409, f"campaign {campaign} cannot go on: {standing['says']}", remedy="see the start page")
    api = _api(visit)
    key = f"by-hand-{campaign}-{visit.store.event_count()}"
    try:
        run = wake(visit.project, api, campaign, key)
    except PrefectAway as error:
        raise Refused(503, error.message, remedy=error.remedy) from None
    if run is None:
        raise Refused(409, f"campaign {campaign} is carried on already", remedy="reload the page")
    with visit.store.transaction() as transaction:
        visit.still("run")(transaction)
        transaction.event("flow-run.started", campaign, actor, {"run": run.id})
    return run


def _campaign(project: Project, name: str) -> dict[str, Any]:
    """Whether a campaign can go on, and in words why not."""
    due, running = machine.what_next(project, name), running_line(project, name)
    state = machine.load_campaign(project, name).state
    if isinstance(due, machine.Waiting):
        what = f"{due.count} labels in {due.subject}" if due.what == "labels" else f"a decision at gate {due.subject}"
        return {"campaign": name, "says": f"waits for {what}", "can_start": False, "href": _href(due)}
    if state != "active":
        return {"campaign": name, "says": f"is {state}", "can_start": False, "href": None}
    if is_held(project, name):
        return {"campaign": name, "says": f"runs: {running or 'a stage begins'}", "can_start": False, "href": None}
    if isinstance(due, Finished):
        return {"campaign": name, "says": f"has only to be closed: {due.reason}", "can_start": True, "href": None}
    return {"campaign": name, "says": f"can go on: round {due.round}, {due.stage}", "can_start": True, "href": None}


def _href(due: machine.Waiting) -> str:
    return f"/gates/{due.subject}" if due.what == "approval" else f"/batches/{due.subject}"


def _mlflow(project: Project) -> dict[str, Any]:
    url = running_services(project).get("mlflow", {}).get("url")
    return {"up": bool(url and answers(f"{url}health", 1.0)), "url": url}


def _asked(api: PrefectApi) -> dict[str, Any]:
    now = datetime.now(UTC)
    last = [run for run in api.runs(limit=LAST + 30) if run.state not in WAITING or not _is_later(run, now)][:LAST]
    coming = api.runs(states=WAITING, limit=NEXT)
    explained = 0
    told = []
    for run in last:
        lines: list[str] = []
        if run.state in ("FAILED", "CRASHED") and explained < EXPLAINED:
            explained += 1
            lines = api.errors(run.id)
        again = run.state in ("FAILED", "CRASHED", "CANCELLED") and bool(run.campaign)
        told.append({**_told(run), "lines": lines, "can_retry": again})
    return {"runs": told, "next": [_told(run) for run in coming], "served": _served(api)}


def _is_later(run: FlowRun, now: datetime) -> bool:
    return run.expected is not None and datetime.fromisoformat(run.expected) > now


def _told(run: FlowRun) -> dict[str, Any]:
    return {
        "id": run.id, "name": run.name, "flow": run.flow, "campaign": run.campaign, "state": run.state_name, "kind": run.state,
        "message": run.message[:2000], "expected": run.expected, "start": run.start, "end": run.end,
        "seconds": round(run.seconds, 1), "can_cancel": run.state in (*UNDER_WAY, *WAITING) and run.state != "CANCELLING",
    }  # fmt: skip


def _served(api: PrefectApi) -> bool:
    """Whether a worker has made its deployments known."""
    try:
        api.deployment(TEND)
    except RlbackError:
        return False
    return True


def _schedule(project: Project) -> dict[str, Any]:
    held = current(project.store)
    times = [at.isoformat(timespec="seconds") for at in next_times(held, time.time(), NEXT)]
    return {
        "every_s": held.every, "minutes": held.every / 60, "paused": held.paused, "by": held.by, "since": held.since,
        "next": times, "least_minutes": LEAST_S / 60, "most_minutes": MOST_S / 60,
    }  # fmt: skip
