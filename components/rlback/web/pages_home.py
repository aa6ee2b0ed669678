"""The start page: what is approved and deployed, what runs, and what waits for whom."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from rlback.accounts.users import count_users
from rlback.campaign import machine
from rlback.campaign.context import load_recorded
from rlback.campaign.plan import Finished, Recorded, Step, attempts, newest_batch, stages_of_round
from rlback.campaign.standing import running_line
from rlback.evaluation.svg import FIGURE_CSS
from rlback.project import Project
from rlback.registry.break_glass import broken
from rlback.registry.four_eyes import objection_now
from rlback.registry.gates import find_gate
from rlback.registry.operations import get_version, list_aliases, list_versions
from rlback.web.answers import page
from rlback.web.refusals import Refused
from rlback.web.visit import Visit, visit_of

router = APIRouter()


@router.get("/", summary="Start page: policies, campaigns, and what waits for you")
def home(request: Request) -> Response:
    """What is approved and deployed, what runs, who is waited for."""
    visit = visit_of(request)
    if visit.user is None and not count_users(visit.store):
        return RedirectResponse("/setup", 303)
    if visit.user is None and not visit.bearer:
        return RedirectResponse("/sign-in", 303)
    visit.require()
    campaigns = [campaign_standing(visit.project, name) for name in machine.active_campaigns(visit.project)]
    data = {
        "policies": policies(visit) if visit.may("look") else [],
        "campaigns": campaigns if visit.may("look") else [],
        "broken": broken(visit.store) if visit.may("look") else [],
        "waiting_for_you": [w for c in campaigns if (w := for_you(visit, c))][:3],
    }
    return page(request, "home.html", "Loop", data)


@router.get("/healthz", summary="Whether the database answers")
def healthz(request: Request) -> dict[str, str]:
    """`ok` where the ledger can be read."""
    try:
        visit_of(request).store.event_count()
    except Exception:
        raise Refused(503, "the database cannot be read", remedy="see the terminal the console runs in") from None
    return {"status": "ok"}


@router.get("/figures.css", include_in_schema=False)
def figures_css() -> Response:
    """The colours of drawings, and of the whole console with them."""
    return Response(FIGURE_CSS, media_type="text/css", headers={"cache-control": "max-age=3600"})


def policies(visit: Visit) -> list[dict[str, Any]]:
    """Each policy with its approved and deployed checkpoint."""
    store, found = visit.store, []
    for policy in sorted({v.policy for v in list_versions(store)}):
        held = list_aliases(store, policy)
        row: dict[str, Any] = {"policy": policy}
        for alias in ("approved", "deployed", "candidate"):
            version = get_version(store, policy, held[alias]) if alias in held else None
            row[alias] = version and {"checkpoint": version.address, "digest": version.digest, "created": version.created}
        found.append(row)
    return found


def campaign_standing(project: Project, name: str) -> dict[str, Any]:
    """A campaign's round as a strip of stages, and whom it waits for since when."""
    row = machine.load_campaign(project, name)
    config, recorded = machine.config_of(row), load_recorded(project, name)
    due = machine.what_next(project, name)
    here = _position(config.rounds, recorded, due)
    strip = []
    last, batch = (attempts(recorded, here[0]), newest_batch(recorded, here[0])) if here[0] else (1, 1)
    for stage in stages_of_round(config, here[0]):
        number = batch if stage in ("sample", "label") else last if stage in ("evaluate", "decide") else 1
        over = (here[0], stage, number) in recorded
        state = "done" if over else "now" if stage == here[1] else "to come"
        if stage == here[1] and isinstance(due, machine.Waiting):
            state = "waits"
        strip.append({"stage": stage, "state": state})
    running = running_line(project, name)
    waits: dict[str, Any] | None = None
    if isinstance(due, machine.Waiting):
        since = (
            find_gate(project.store, due.subject).opened if due.what == "approval"
            else _batch_since(project, name, here[0], batch)
        )  # fmt: skip
        whom = "an annotator" if due.what == "labels" else "an approver"
        waits = {"whom": whom, "what": due.what, "subject": due.subject, "count": due.count, "since": since}
    return {
        "campaign": name, "policy": row.policy, "started_by": row.started_by, "round": here[0], "rounds": config.rounds,
        "attempt": last, "strip": strip, "waits": waits, "running": running,
        "due": None if waits or running else f"rlback advance {name}",
        "finished": due.reason if isinstance(due, Finished) else None,
    }  # fmt: skip


def _position(rounds: int, recorded: Recorded, due: Any) -> tuple[int, str]:
    if isinstance(due, Step):
        return due.round, due.stage
    reached = max((key[0] for key in recorded), default=0)
    if isinstance(due, machine.Waiting):
        return reached, "label" if due.what == "labels" else "decide"
    return min(reached, rounds), ""


def _batch_since(project: Project, name: str, round_: int, attempt: int) -> str:
    from sqlalchemy import select

    from rlback.ledger.tables import stages

    column = stages.c
    query = select(column.finished).where(
        column.campaign == name, column.round == round_, column.stage == "sample", column.attempt == attempt
    )
    row = project.store.first(query)
    return str(row.finished) if row else ""


def for_you(visit: Visit, standing: dict[str, Any]) -> dict[str, str] | None:
    """What this user can do about a campaign that waits, with the page where it is done."""
    waits = standing["waits"]
    if waits is None:
        return None
    if waits["what"] == "labels" and visit.may("label"):
        many = f"{waits['count']} comparison{'s' * (waits['count'] != 1)} to label in {waits['subject']}"
        return {"text": many, "href": f"/label/{waits['subject']}", "button": "Label", "since": waits["since"]}
    if waits["what"] == "approval" and visit.may("decide"):
        user = visit.require()
        why = objection_now(visit.store, standing["campaign"], standing["round"], user.name)
        text = f"Gate {waits['subject']} waits for a decision" + (f"; you may not approve it ({why})" if why else "")
        return {"text": text, "href": f"/gates/{waits['subject']}", "button": "Look at the evidence", "since": waits["since"]}
    return None
