"""Practice before labelling: the answer that was expected is shown after each choice."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.labelling import practice
from rlback.web.answers import ASCIIJSON, page, wants_json
from rlback.web.pages_label import PROMPT_CHARS
from rlback.web.plain import plain
from rlback.web.refusals import Refused
from rlback.web.turns import shown_prompt
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()


@router.get("/label/{batch}/practice", summary="The next practice comparison, with a known answer")
def show(request: Request, batch: str) -> Response:
    """What is said here is no label."""
    visit = visit_of(request)
    visit.require("label")
    return _page(request, visit, batch, None)


@router.post("/label/{batch}/practice", summary="Answer a practice comparison; says what was expected and why")
def answer(request: Request, batch: str, sent: Sent) -> Response:
    """`number` of the item and `choice` of the scale; the first answer stands."""
    visit = visit_of(request)
    actor = visit.require("label").actor
    number = sent.one("number", most=4)
    if not number.isdigit():
        raise Refused(422, "number is no number of an item", remedy="send the one the page shows")
    told = practice.answer(visit.store, batch, actor, int(number), sent.one("choice", most=20))
    if wants_json(request):
        return ASCIIJSON({**told, "standing": practice.standing(visit.store, batch, actor)})
    return _page(request, visit, batch, {**told, "number": int(number)})


def _page(request: Request, visit: Visit, batch: str, told: dict[str, Any] | None) -> Response:
    actor = visit.require("label").actor
    item = practice.next_item(visit.store, batch, actor)
    shown = None
    if item is not None:
        sides = {"a": item.a, "b": item.b}
        shown = {
            "number": item.number, "of": item.of, "prompt": shown_prompt(item.prompt, PROMPT_CHARS),
            "left": plain(sides[item.left]).as_json(), "right": plain(sides["b" if item.left == "a" else "a"]).as_json(),
        }  # fmt: skip
    data = {"batch": batch, "item": shown, "standing": practice.standing(visit.store, batch, actor), "told": told}
    return page(request, "practice.html", f"Practice {batch}", data)
