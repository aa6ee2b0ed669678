"""Where a checkpoint comes from: the same record as `rlback audit`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.errors import RlbackError
from rlback.registry.lineage import audit
from rlback.registry.lineage_graph import graph
from rlback.registry.lineage_marks import mark
from rlback.registry.operations import check_files, resolve
from rlback.web.answers import page
from rlback.web.visit import visit_of

router = APIRouter()


@router.get("/checkpoints/{address}", summary="The lineage of a checkpoint: data, labels, models, decisions, events")
def lineage(request: Request, address: str, files: bool = False) -> Response:
    """`policy@12`, `policy@approved`, or an alias. With `files`, its weights and the files of the graph are read now."""
    visit = visit_of(request)
    visit.require("look")
    version = resolve(visit.store, address)
    found = audit(visit.project, version)
    found["policy"], found["version"] = version.policy, version.version
    found["graph"] = mark(visit.project, graph(visit.store, version, forward=True), files)
    found["files"] = None
    if files:
        try:
            check_files(visit.project, version)
            found["files"] = {"whole": True, "why": "every file is as its digest says"}
        except RlbackError as error:
            found["files"] = {"whole": False, "why": error.message}
    return page(request, "checkpoint.html", f"{version.address}", found)
