"""The guideline: what annotators read, its versions, and saving a new one."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.labelling.guidelines import TEXT_CHARS, add_guideline, list_guidelines
from rlback.web.answers import done, page
from rlback.web.refusals import Refused
from rlback.web.visit import Sent, visit_of

router = APIRouter()


@router.get("/guideline", summary="The guideline annotators go by, and its earlier versions")
def show(request: Request) -> Response:
    """Newest version first; its number is stored with every label given in the console."""
    visit = visit_of(request)
    visit.require()
    versions = [vars(g) for g in list_guidelines(visit.store)]
    data = {"versions": versions, "may_write": visit.may("guideline"), "most": TEXT_CHARS}
    return page(request, "guideline.html", "Guideline", data)


@router.post("/guideline", summary="Save a new version")
def save(request: Request, sent: Sent) -> Response:
    """`after` is the version that was read before it was changed."""
    visit = visit_of(request)
    actor = visit.require("guideline").actor
    after = sent.one("after", "0", most=9)
    if not after.isdigit():
        raise Refused(422, "after is no version", remedy="send the number of the version you read")
    made = add_guideline(visit.store, sent.one("text", most=2 * TEXT_CHARS), actor, after=int(after))
    return done(request, {"version": made.version}, "/guideline", "guideline")
