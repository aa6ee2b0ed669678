"""The ledger: every event, with filters, and whether the chain holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from starlette.responses import Response

from rlback.ledger.store import Store
from rlback.ledger.tables import events
from rlback.registry.verification import verify as verify_all
from rlback.web.answers import page
from rlback.web.plain import plain
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
PAGE = 100
FILTERS = ("kind", "subject", "actor")
PAYLOAD_CHARS = 600


@router.get("/ledger", summary="Events, newest first, by kind, subject, actor and day")
def ledger(
    request: Request, kind: str = "", subject: str = "", actor: str = "", since: str = "", until: str = "", before: int = 0
) -> Response:
    """At most 100 events, those with a number below `before` where it is given."""
    visit = visit_of(request)
    visit.require("look")
    asked = {"kind": kind[:80], "subject": subject[:200], "actor": actor[:80], "since": since[:30], "until": until[:30]}
    listed = _listed(visit.store, asked, min(max(before, 0), 2**60))
    return page(request, "ledger.html", "Ledger", {**listed, **_state(visit), "result": None})


@router.post("/ledger/verify", summary="Verify now: the chain, its signed heads, and the rows that decide something")
def verify(request: Request, sent: Sent) -> Response:
    """With `files`, weights and data are read again as well; that takes as long as they are large."""
    visit = visit_of(request)
    user = visit.require("verify", "look")
    mirror = None
    if sent.one("files", most=10) in ("1", "on", "true", "True"):
        from rlback.registry.mlflow_store import MlflowStore

        mirror = MlflowStore(visit.project.root)
        mirror.prepare()
    found = verify_all(visit.project, mirror)
    result = {
        "holds": found.holds, "events": found.events, "checkpoints": found.checkpoints, "data_versions": found.data_versions,
        "sources": found.sources, "findings": [vars(f) for f in found.findings], "by": user.name, "files": mirror is not None,
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }  # fmt: skip
    asked = dict.fromkeys((*FILTERS, "since", "until"), "")
    return page(request, "ledger.html", "Ledger", {**_listed(visit.store, asked, 0), **_state(visit), "result": result})


def _state(visit: Visit) -> dict[str, Any]:
    """How long the chain is, and how far its heads are signed; whether it holds is for `verify` to say."""
    newest = visit.store.heads.newest()
    return {"length": visit.store.event_count(), "signed_to": newest[0] if newest else 0}


def _listed(store: Store, asked: dict[str, str], before: int) -> dict[str, Any]:
    column = events.c
    query = select(events)
    for name in FILTERS:
        if asked[name]:
            query = query.where(column[name] == asked[name])
    if asked["since"]:
        query = query.where(column.time >= asked["since"])
    if asked["until"]:
        # A day stands for all of it.
        query = query.where(column.time <= asked["until"] + ("~" if len(asked["until"]) == 10 else ""))
    matching = int(store.rows(select(func.count()).select_from(query.subquery()))[0][0])
    if before:
        query = query.where(column.seq < before)
    rows = store.rows(query.order_by(column.seq.desc()).limit(PAGE))
    kinds = [row.kind for row in store.rows(select(column.kind).distinct().order_by(column.kind))]
    return {
        "asked": asked, "kinds": kinds, "matching": matching, "older": rows[-1].seq if len(rows) == PAGE else None,
        "events": [
            {"seq": row.seq, "time": row.time, "kind": row.kind, "subject": row.subject, "actor": row.actor,
             "actor_kind": row.actor_kind, "payload": plain(_readable(row.payload), PAYLOAD_CHARS).as_json(), "hash": row.hash}
            for row in rows
        ],
    }  # fmt: skip


def _readable(payload: str) -> str:
    """`key value` pairs of a payload, long digests shortened; what is no JSON object as it is stored."""
    try:
        tree = json.loads(payload)
    except (ValueError, RecursionError):
        return payload
    if not isinstance(tree, dict):
        return payload
    shown = []
    for key, value in tree.items():
        if isinstance(value, str) and len(value) == 64:
            value = value[:12]
        if value not in (None, "", [], {}):
            shown.append(f"{key}: {value if isinstance(value, str | int | float) else json.dumps(value)}")
    return "; ".join(shown)
