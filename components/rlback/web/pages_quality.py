"""Batches: how far they are, and how far their annotators agree."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from rlback.labelling.batches import stands, stored_one
from rlback.labelling.exports import export_batch
from rlback.labelling.imports import FORMS as IMPORT_FORMS
from rlback.labelling.imports import Imported, import_labels, list_imports
from rlback.labelling.quality import quality
from rlback.labelling.quarantines import list_quarantines
from rlback.ledger.tables import batches, comparisons, labels, stages
from rlback.records import REASON_CHARS
from rlback.registry.quarantine import Outcome, lift, put_in
from rlback.web.answers import ASCIIJSON, done, page
from rlback.web.refusals import Refused
from rlback.web.turns import shown_completion, shown_prompt
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
TEXT_CHARS = 1_500
SCOPES = ("batch", "everywhere", "comparison")


@router.get("/batches", summary="Every batch of comparisons, newest first")
def listing(request: Request) -> Response:
    """Size, labels given, and whether it still takes labels."""
    visit = visit_of(request)
    visit.require("look")
    given = (
        select(comparisons.c.batch, func.count(func.distinct(labels.c.comparison)).label("n"))
        .join(labels, labels.c.comparison == comparisons.c.id)
        .where(stands())
        .group_by(comparisons.c.batch)
        .subquery()
    )
    rows = visit.store.rows(
        select(batches, given.c.n, stages.c.finished)
        .outerjoin(given, given.c.batch == batches.c.id)
        .outerjoin(
            stages,
            (stages.c.campaign == batches.c.campaign) & (stages.c.round == batches.c.round)
            & (stages.c.attempt == batches.c.attempt) & (stages.c.stage == "label"),
        )
        .order_by(batches.c.campaign, batches.c.round.desc(), batches.c.attempt.desc())
        .limit(500)
    )  # fmt: skip
    found = [
        {"batch": r.id, "campaign": r.campaign, "round": r.round, "attempt": r.attempt, "size": r.size, "labelled": r.n or 0,
         "annotators": r.annotators, "closed": r.finished, "imported": r.attempt < 1}
        for r in rows
    ]  # fmt: skip
    data = {
        "batches": found, "may_import": visit.may("import"), "campaigns": sorted({r.campaign for r in rows}),
        "imports": [
            {"import": i["number"], **{k: i[k] for k in ("campaign", "form", "sha256", "counts", "actor", "time")}}
            for i in list_imports(visit.store)[:50]
        ],
        "forms": list(IMPORT_FORMS),
    }  # fmt: skip
    return page(request, "batches.html", "Batches", data)


@router.get("/batches/{batch}", summary="Agreement, annotators and contested comparisons of a batch")
def show(request: Request, batch: str) -> Response:
    """Krippendorff's alpha, percent agreement, Cohen's kappa of each pair, a row an annotator."""
    visit = visit_of(request)
    visit.require("look")
    row = visit.store.first(select(batches).where(batches.c.id == batch))
    if row is None:
        raise Refused(404, f"there is no batch {batch[:80]}", remedy="the page of batches lists them")
    found = quality(visit.store, batch, _margins(visit, row))
    for entry in (*found["contested"], *found["against_model"]):
        entry |= _texts(visit, entry["comparison"])
    names = {a["annotator"] for a in found["annotators"]}
    held = [q for q in list_quarantines(visit.store) if q.batch == batch or (not q.batch and q.annotator in names)]
    data = {
        "batch": batch, "campaign": row.campaign, "round": row.round, "size": row.size, "of": row.annotators, **found,
        "quarantines": [{**vars(q), "scope": q.scope} for q in held], "may_quarantine": visit.may("quarantine"),
        "reason_chars": REASON_CHARS,
    }  # fmt: skip
    return page(request, "quality.html", f"Batch {batch}", data)


@router.post("/batches/{batch}/quarantine", summary="Put labels in quarantine, with a reason")
def quarantine(request: Request, batch: str, sent: Sent) -> Response:
    """`annotator`; `scope` batch, everywhere or comparison, which `comparison` then names; `reason`."""
    visit = visit_of(request)
    actor = visit.require("quarantine").actor
    scope, comparison = sent.one("scope", "batch", most=20), ""
    if scope not in SCOPES:
        raise Refused(422, f"{scope!r} is no scope of a quarantine", remedy=f"one of {', '.join(SCOPES)}")
    if scope == "comparison":
        comparison = sent.one("comparison", most=120)
        if comparison.rpartition(".")[0] != batch:
            raise Refused(422, f"comparison {comparison[:80]} is not of batch {batch[:80]}", remedy="copy it from this page")
    outcome = put_in(
        visit.store, sent.one("annotator", most=64), actor, sent.one("reason", most=REASON_CHARS),
        batch=batch if scope == "batch" else "", comparison=comparison, permit=visit.still("quarantine"),
    )  # fmt: skip
    return done(request, _told(outcome), f"/batches/{batch}", "quarantined")


@router.post("/quarantines/{number}/lift", summary="Lift a quarantine, with a reason: its labels count again")
def lift_one(request: Request, number: int, sent: Sent) -> Response:
    """`batch` is the page to go back to."""
    visit = visit_of(request)
    actor = visit.require("quarantine").actor
    outcome = lift(visit.store, number, actor, sent.one("reason", most=REASON_CHARS), permit=visit.still("quarantine"))
    batch = outcome.quarantine.batch or sent.one("batch", most=120)
    return done(request, _told(outcome), f"/batches/{quote(batch)}" if batch else "/batches", "lifted")


def _told(outcome: Outcome) -> dict[str, object]:
    return {
        "quarantine": outcome.quarantine.id, "labels": outcome.labels, "superseded": list(outcome.superseded),
        "decided": list(outcome.decided),
    }  # fmt: skip


@router.post("/campaigns/{campaign}/import", summary="Labels from a file, whose bytes are the body: all of it or nothing")
async def import_file(request: Request, campaign: str, form: str = "", annotator: str = "", name: str = "") -> Response:
    """`form` as in `rlback labels import`; `annotator` where the file names none; `name` is how errors call the file."""
    visit = visit_of(request)
    body = await request.body()
    actor = visit.require("import").actor
    visit.require_csrf(request.headers.get("x-csrf-token", ""))
    shown = "".join(c if c.isprintable() else "?" for c in name[:80]) or "the file"

    def store_all() -> Imported:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "labels"
            path.write_bytes(body)
            permit = visit.still("import")
            return import_labels(visit.store, path, campaign, actor, form=form, annotator=annotator, permit=permit, name=shown)

    return ASCIIJSON(vars(await run_in_threadpool(store_all)))


@router.post("/batches/{batch}/export", summary="The labels of a batch as a file, in one of the forms")
def export(request: Request, batch: str, sent: Sent) -> Response:
    """`form` raw, trl, trl-conversational, label-studio or argilla. Who took what is an event."""
    visit = visit_of(request)
    user = visit.require("look")
    form = sent.one("form", "raw", most=30)
    content = export_batch(visit.store, batch, form, user.actor)
    headers = {"content-disposition": f'attachment; filename="{batch}-{form}.{"json" if form == "label-studio" else "jsonl"}"'}
    return Response(content, media_type="application/jsonl", headers=headers)


def _margins(visit: Visit, batch: Any) -> dict[str, float]:
    """The reward model's margins on a batch, from the newest evaluation that had it."""
    query = select(stages.c.output).where(
        stages.c.campaign == batch.campaign, stages.c.round == batch.round, stages.c.stage == "evaluate",
        stages.c.attempt >= batch.attempt,
    )  # fmt: skip
    row = visit.store.first(query.order_by(stages.c.attempt.desc()))
    margins: dict[str, float] = json.loads(row.output).get("margins", {}) if row else {}
    return margins


def _texts(visit: Visit, comparison: str) -> dict[str, object]:
    item = stored_one(visit.store, comparison)
    assert item is not None
    one = item.comparison
    sides = {side: shown_completion(c.text, c.answers, TEXT_CHARS) for side, c in (("a", one.a), ("b", one.b))}
    return {**sides, "prompt": shown_prompt(one.prompt, TEXT_CHARS)}
