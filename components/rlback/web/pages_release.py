"""What is rare and weighs much, a page each: deploying, taking out of service, and approving alone in an emergency."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from rlback.campaign.deciding import decide_as_person
from rlback.errors import RlbackError
from rlback.records import REASON_CHARS, words_of
from rlback.registry.break_glass import LEAST_REASON, sentence
from rlback.registry.deployments import deploy, require_deployable, withdraw
from rlback.registry.gates import find_gate
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import get_version, list_aliases
from rlback.web.answers import done, page
from rlback.web.pages_timeline import version_number
from rlback.web.refusals import Refused, require_typed, whole_digest
from rlback.web.visit import Sent, visit_of

router = APIRouter()


@router.get("/policies/{policy}/{number}/deploy", summary="What deploying a checkpoint would do (a dry run)")
def deploy_plan(request: Request, policy: str, number: int) -> Response:
    """Whether it can be deployed, with its files checked now, and what is deployed instead of it today."""
    visit = visit_of(request)
    visit.require("look")
    target = get_version(visit.store, policy, version_number(number))
    refused = None
    try:
        require_deployable(visit.project, target)
    except RlbackError as error:
        refused = error.message
    held = list_aliases(visit.store, policy).get("deployed")
    data = {
        "checkpoint": target.address, "digest": target.digest, "status": target.status, "refused": refused,
        "deployed": f"{policy}@{held}" if held is not None else None, "may_deploy": visit.may("deploy"),
        "reason_chars": REASON_CHARS,
    }  # fmt: skip
    return page(request, "deploy.html", f"Deploy {target.address}", data)


@router.post("/policies/{policy}/{number}/deploy", summary="Deploy a checkpoint")
def deploy_now(request: Request, policy: str, number: int, sent: Sent) -> Response:
    """Takes a reason, and the checkpoint's address typed out as confirmation."""
    visit = visit_of(request)
    user = visit.require("deploy")
    target = get_version(visit.store, policy, version_number(number))
    require_typed(sent.one("confirm", most=200), target.address)
    reason = words_of(sent.one("reason", most=REASON_CHARS))
    if not reason:
        raise Refused(422, "a deployment needs a reason", remedy="say why")
    was = deploy(
        visit.project, MlflowStore(visit.project.root), target, user.actor, reason, permit=visit.still("deploy")
    )
    visit.console.kick()
    body = {"deployed": target.address, "digest": target.digest, "before": f"{policy}@{was}" if was is not None else None}
    return done(request, body, f"/policies/{policy}", "deployed")


@router.get("/policies/{policy}/{number}/withdraw", summary="What taking a checkpoint out of service would do")
def withdraw_plan(request: Request, policy: str, number: int) -> Response:
    """Whether it is the one that is deployed, and what stays."""
    visit = visit_of(request)
    visit.require("look")
    target = get_version(visit.store, policy, version_number(number))
    held = list_aliases(visit.store, policy)
    data = {
        "checkpoint": target.address, "digest": target.digest, "status": target.status,
        "serves": held.get("deployed") == target.version,
        "approved": f"{policy}@{held['approved']}" if "approved" in held else None, "may_deploy": visit.may("deploy"),
        "reason_chars": REASON_CHARS,
    }  # fmt: skip
    return page(request, "withdraw.html", f"Withdraw {target.address}", data)


@router.post("/policies/{policy}/{number}/withdraw", summary="Take the deployed checkpoint out of service")
def withdraw_now(request: Request, policy: str, number: int, sent: Sent) -> Response:
    """Takes a reason, and the checkpoint's address typed out as confirmation. Nothing is deployed afterwards."""
    visit = visit_of(request)
    user = visit.require("deploy")
    target = get_version(visit.store, policy, version_number(number))
    require_typed(sent.one("confirm", most=200), target.address)
    withdraw(
        visit.project, MlflowStore(visit.project.root), target, user.actor, sent.one("reason", most=REASON_CHARS),
        permit=visit.still("deploy"),
    )  # fmt: skip
    visit.console.kick()
    return done(request, {"withdrawn": target.address, "digest": target.digest}, f"/policies/{policy}", "withdrawn")


@router.get("/gates/{id_}/break-glass", summary="What approving alone in an emergency means, and what it takes")
def glass(request: Request, id_: str) -> Response:
    """The sentence to type; who sees it afterwards."""
    visit = visit_of(request)
    visit.require("break-glass")
    gate = find_gate(visit.store, id_)
    candidate = gate.evidence["candidate"]["address"]
    data = {
        "gate": gate.id, "state": gate.state, "candidate": candidate, "digest": gate.digest, "sentence": sentence(candidate),
        "least_reason": LEAST_REASON, "reason_chars": REASON_CHARS,
    }  # fmt: skip
    return page(request, "break_glass.html", f"Break the glass at {gate.id}", data)


@router.post("/gates/{id_}/break-glass", summary="Approve alone in an emergency, past four eyes and quorum")
def break_it(request: Request, id_: str, sent: Sent) -> Response:
    """`digest` in full, `reason`, and `confirm`: the sentence typed out. It is shown on the start page from then on."""
    visit = visit_of(request)
    user = visit.require("break-glass")
    digest = whole_digest(sent.one("digest", most=64))
    gate = decide_as_person(
        visit.project, id_, "approve", user.actor, digest=digest, reason=sent.one("reason", most=REASON_CHARS),
        permit=visit.still("break-glass"), break_glass_confirmed=sent.one("confirm", most=300),
    )  # fmt: skip
    visit.console.kick()
    return done(request, {"gate": gate.id, "state": gate.state, "break_glass": True}, f"/gates/{gate.id}", "glass")
