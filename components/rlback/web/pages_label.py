"""Labelling: blind, one key a choice, saved before the next one counts."""

from __future__ import annotations

import json
import secrets
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from rlback.campaign import machine
from rlback.labelling import queue
from rlback.labelling.choices import FLAGS, RATIONALE_CHARS
from rlback.labelling.guidelines import current_version
from rlback.labelling.practice import standing
from rlback.web.answers import ASCIIJSON, page, wants_json
from rlback.web.refusals import Refused
from rlback.web.turns import shown_completion, shown_prompt
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
PROMPT_CHARS = 8_000


@router.get("/label", summary="Batches that wait for labels")
def batches(request: Request) -> Response:
    """What can be labelled now."""
    visit = visit_of(request)
    visit.require("label")
    open_ = [
        {"batch": due.subject, "waiting": due.count}
        for name in machine.active_campaigns(visit.project)
        if isinstance(due := machine.what_next(visit.project, name), machine.Waiting) and due.what == "labels"
    ]
    if len(open_) == 1 and not wants_json(request):
        return RedirectResponse(f"/label/{open_[0]['batch']}", 303)
    return page(request, "batches_open.html", "Label", {"batches": open_})


@router.get("/label/{batch}", summary="The comparison before you, with the sides as drawn for you")
def label(request: Request, batch: str, second: bool = False, practice: str = "") -> Response:
    """Leases a comparison and shows it. With `second`, one that somebody else has labelled.

    Who has labelled nothing here and has practice left is sent there first, unless `practice` says skip.
    """
    visit = visit_of(request)
    actor = visit.require("label").actor
    if not wants_json(request) and not practice and not request.query_params.get("said"):
        left = standing(visit.store, batch, actor)
        if left["answered"] < left["items"] and not queue.progress(visit.store, batch, actor).mine:
            return RedirectResponse(f"/label/{batch}/practice", 303)
    shown = queue.next_shown(visit.store, batch, actor, second=second)
    data = {
        "batch": batch, "second": second, "item": shown and _as_shown(shown), "progress": _progress(visit, batch),
        "flags": list(FLAGS), "rationale_chars": RATIONALE_CHARS,
        "guideline": current_version(visit.store), "key": secrets.token_hex(16),
    }  # fmt: skip
    return page(request, "label.html", f"Label {batch}", data)


@router.post("/label/{batch}/next", summary="Lease another comparison, to have it at hand")
def another(request: Request, batch: str, sent: Sent) -> Response:
    """`without` are the comparisons already in hand."""
    visit = visit_of(request)
    actor = visit.require("label").actor
    second = sent.one("second", most=10) in ("1", "true", "True")
    shown = queue.next_shown(visit.store, batch, actor, sent.many("without")[:10], second=second)
    return ASCIIJSON({"item": shown and _as_shown(shown)})


@router.post("/label/{batch}/submit", summary="Store a label")
def submit(request: Request, batch: str, sent: Sent) -> Response:
    """Stores the choice; `key` names the submission, so that sending it again stores nothing more."""
    visit = visit_of(request)
    actor = visit.require("label").actor
    comparison = _of(batch, sent.one("comparison", most=120))
    given = queue.give(
        visit.store, comparison, actor, sent.one("choice", most=20), flags=sent.many("flags"),
        rationale=sent.one("rationale", most=RATIONALE_CHARS + 200), seconds=_seconds(sent), key=sent.one("key", most=80),
    )  # fmt: skip
    body = {
        "saved": {"comparison": comparison, "revision": given.revision, "time": given.time, "repeated": given.repeated},
        "progress": _progress(visit, batch),
    }
    if wants_json(request):
        return ASCIIJSON(body)
    second = "second=true&" if sent.one("second", most=10) in ("1", "true", "True") else ""
    return RedirectResponse(f"/label/{batch}?{second}said=label", 303)


@router.post("/label/{batch}/undo", summary="Take back your last label, as a new revision")
def undo(request: Request, batch: str, sent: Sent) -> Response:
    """The label stays on record; what was labelled is shown again, its sides as before."""
    visit = visit_of(request)
    actor = visit.require("label").actor
    given = queue.undo(visit.store, batch, actor, sent.one("key", most=80))
    if given is None:
        raise Refused(409, "there is nothing to undo in this batch", remedy="label a comparison first")
    if wants_json(request):
        item = _as_shown(queue.show_again(visit.store, given.comparison, actor))
        return ASCIIJSON({"item": item, "progress": _progress(visit, batch), "saved": {"time": given.time}})
    return RedirectResponse(f"/label/{batch}?said=undone", 303)


@router.post("/label/{batch}/renew", summary="Keep a lease alive")
def renew(request: Request, batch: str, sent: Sent) -> Response:
    """Says whether the comparison is still this annotator's alone."""
    visit = visit_of(request)
    actor = visit.require("label").actor
    return ASCIIJSON({"yours": queue.renew(visit.store, _of(batch, sent.one("comparison", most=120)), actor)})


def _of(batch: str, comparison: str) -> str:
    if comparison.rpartition(".")[0] != batch:
        raise Refused(422, f"comparison {comparison[:80]} is not of batch {batch[:80]}", remedy="reload the page")
    return comparison


def _seconds(sent: Sent) -> float | None:
    try:
        value = float(sent.one("seconds", "", most=20))
    except ValueError:
        return None
    return round(value, 3) if 0 <= value <= 86_400 else None


def _as_shown(shown: queue.Shown) -> dict[str, Any]:
    """What goes over the wire: never the checkpoint, the source of the comparison, or which side is a."""
    item = shown.item.comparison
    left, right = (item.a, item.b) if shown.left == "a" else (item.b, item.a)
    return {
        "comparison": shown.item.id,
        "prompt": shown_prompt(item.prompt, PROMPT_CHARS),
        "left": {**shown_completion(left.text, left.answers), "finished": left.finished},
        "right": {**shown_completion(right.text, right.answers), "finished": right.finished},
        "until": shown.until,
    }


def _progress(visit: Visit, batch: str) -> dict[str, Any]:
    return json.loads(json.dumps(vars(queue.progress(visit.store, batch, visit.require().actor))))
