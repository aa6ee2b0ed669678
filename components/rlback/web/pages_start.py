"""Starting a campaign: choose a configuration, see what it comes to, confirm.

The plan is that of `rlback run --dry-run`, and the campaign is recorded by the same `machine.start`. What a browser may
say is less than what a terminal may: files in a few directories (`served_files`), and no setting that names a program
to run or a model to load, which only whoever can write configs/ decides.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from rlback.campaign import machine, starting
from rlback.campaign.startable import require_startable
from rlback.config import CampaignConfig, OutcomeConfig, read_config
from rlback.errors import ConfigError, RlbackError
from rlback.orchestration.prefect_api import connect
from rlback.orchestration.running import prefect_api
from rlback.orchestration.waking import wake
from rlback.records import Actor, digest_of
from rlback.web.answers import done, page, wants_json
from rlback.web.plain import plain
from rlback.web.refusals import Refused
from rlback.web.served_files import PATH_CHARS, listed_files, served_file
from rlback.web.visit import Sent, Visit, visit_of

router = APIRouter()
SETTINGS = 100  # overrides at once
ABOUT_CHARS = 600
KEY_CHARS = 80


@dataclass(frozen=True)
class Asked:
    """What somebody asks for, as text; `given` are inputs by name."""

    file: str
    given: dict[str, str]
    settings: list[str]
    seed: str
    name: str


@dataclass(frozen=True)
class Prepared:
    """What it comes to. `digest` stands for configuration and inputs as they were when they were looked at."""

    config: CampaignConfig
    inputs: dict[str, Path]
    described: dict[str, dict[str, str]]

    @property
    def digest(self) -> str:
        return digest_of([self.config.model_dump(mode="json"), self.described])


@router.get("/campaigns/new", summary="Configurations a campaign can be started from; with `config`, what it comes to")
def new(
    request: Request, config: str = "", pairs: str = "", votes: str = "", text: str = "", seed: str = "", name: str = "",
    settings: Annotated[str, Query(alias="set")] = "", plan: str = "",
) -> Response:
    """`config` is a file under configs/; `set` holds a KEY=VALUE a line. With `plan`, everything is checked and told."""
    visit = visit_of(request)
    visit.require("run")
    if not config:
        data = {"choices": [_told(choice) for choice in starting.choices(visit.project)]}
        return page(request, "start_choose.html", "Start a campaign", data)
    asked = _asked(config, {"pairs": pairs, "votes": votes, "text": text}, settings, seed, name)
    path = starting.config_path(visit.project, asked.file)
    plain_config = read_config(path)
    roots = visit.console.settings.input_roots(visit.project)
    data = {
        "config": asked.file, "policy": plain_config.policy, "rounds": plain_config.rounds,
        "needs": [{"input": key, "required": must} for key, must in starting.needed(plain_config).items()],
        "asked": {
            **dict.fromkeys(starting.INPUTS, ""), **asked.given, "set": "\n".join(asked.settings), "seed": asked.seed,
            "name": asked.name,
        },
        "defaults": {"seed": plain_config.seed, "name": plain_config.name},
        "files": listed_files(visit.project.root, roots) if plain_config.source.world is None else [],
        "directories": [visit.project.relative(root) for root in roots], "key": secrets.token_hex(16),
        "plan": None, "wrong": None,
    }  # fmt: skip
    if plan:
        try:
            data["plan"] = _plan(visit, asked)
        except RlbackError as error:
            if wants_json(request):
                raise
            data["wrong"] = {"message": error.message, "remedy": error.remedy}
    return page(request, "start_plan.html", f"Start {asked.file}", data, status=422 if data["wrong"] else 200)


@router.post("/campaigns", summary="Start a campaign: recorded at once, carried on by a flow run where Prefect is up")
def start(request: Request, sent: Sent) -> Response:
    """`config` and the rest as for the plan; `digest` of the plan, if it is to be started just so.

    `key` names the request: the same one again is the same campaign.
    """
    visit = visit_of(request)
    user = visit.require("run")
    given = {
        "pairs": sent.one("pairs", most=PATH_CHARS), "votes": sent.one("votes", most=PATH_CHARS),
        "text": sent.one("text", most=PATH_CHARS),
    }  # fmt: skip
    lines = "\n".join(sent.many("set"))
    asked = _asked(sent.one("config", most=200), given, lines, sent.one("seed", most=20), sent.one("name", most=60))
    prepared = _prepare(visit, asked)
    digest = sent.one("digest", most=64)
    if digest and digest != prepared.digest:
        raise Refused(409, "the configuration or a file has changed since the plan was shown", remedy="look at the plan again")
    key = sent.one("key", most=KEY_CHARS)
    campaign = machine.start(
        visit.project, prepared.config, user.actor, name=asked.name or None, inputs=prepared.inputs,
        key=f"{user.name}:{key}" if key else "", permit=visit.still("run"),
    )  # fmt: skip
    run, why = _set_going(visit, campaign, user.actor)
    body = {
        "campaign": campaign, "policy": prepared.config.policy, "started_by": user.name, "inputs": prepared.described,
        "run": run, "why_no_run": why, "next": None if run else f"rlback advance {campaign}",
    }  # fmt: skip
    return done(request, body, "/runs", "campaign" if run else "campaign-waits")


def _asked(file: str, given: dict[str, str], lines: str, seed: str, name: str) -> Asked:
    settings = [line.strip() for line in lines.splitlines() if line.strip()]
    for key, value in {"config": file, **given, "set": lines, "seed": seed, "name": name}.items():
        if "\x00" in value or len(value) > 8 * PATH_CHARS or len(settings) > SETTINGS:
            raise Refused(422, f"the field {key} is too long, or holds a NUL character", remedy="shorten it")
    return Asked(file, {key: v.strip() for key, v in given.items() if v.strip()}, settings, seed.strip(), name.strip())


def _prepare(visit: Visit, asked: Asked) -> Prepared:
    project = visit.project
    if asked.name:
        machine.check_name(asked.name)
    path = starting.config_path(project, asked.file)
    config = read_config(path, starting.overrides_of(asked.settings, asked.seed or None))
    _require_same_programs(read_config(path), config)
    roots = visit.console.settings.input_roots(project)
    files = {key: served_file(project.root, roots, key, named) for key, named in asked.given.items()}
    inputs = starting.check_inputs(config, files)
    described = machine.describe_inputs(project, config, inputs)
    require_startable(project, config)
    return Prepared(config, inputs, described)


def _require_same_programs(written: CampaignConfig, asked: CampaignConfig) -> None:
    """An override may not name what is run or loaded on the server: an operator in a browser has no shell there.

    Raises:
        ConfigError: names the key.
    """
    for key, of in (
        ("scores", lambda c: c.scores if isinstance(c.scores, OutcomeConfig) else None), ("base.model", lambda c: c.base.model),
        ("labels.gold_file", lambda c: c.labels.gold_file),
    ):  # fmt: skip
        if of(asked) not in (of(written), None):
            raise ConfigError(
                f"{key} names a program or a file on the server, which cannot be set here",
                remedy="write it into a file under configs/, or start the campaign with `rlback run`",
            )


def _plan(visit: Visit, asked: Asked) -> dict[str, Any]:
    """What `rlback run --dry-run` says, the inputs as they will be recorded, and the command that does the same."""
    prepared = _prepare(visit, asked)
    counts = starting.count_pairs(prepared.config, prepared.inputs)
    lines = starting.plan_lines(f"configs/{asked.file}", prepared.config, prepared.inputs, counts)
    return {
        "lines": lines[:-1], **starting.plan_of(prepared.config), "pairs": counts, "inputs": prepared.described,
        "digest": prepared.digest, "policy": prepared.config.policy, "seed": prepared.config.seed,
        "campaign": machine.name_for(visit.project, prepared.config, asked.name or None),
        "people": {"label": prepared.config.labels.annotators == "human", "decide": prepared.config.gate.approver == "human"},
        "command": starting.command_of(asked.file, prepared.inputs, asked.settings, asked.seed, asked.name),
        "settings": prepared.config.model_dump(mode="json"), "prefect": prefect_api(visit.project) is not None,
    }  # fmt: skip


def _set_going(visit: Visit, campaign: str, actor: Actor) -> tuple[str | None, str | None]:
    """The flow run that carries it on, or why there is none; the campaign is on record whatever becomes of it."""
    try:
        run = wake(visit.project, connect(visit.project), campaign, f"started-{campaign}")
        told = [e.payload.get("run") for e in visit.store.events(campaign) if e.kind == "flow-run.started"]
        if run is not None and run.id not in told:
            with visit.store.transaction() as transaction:
                transaction.event("flow-run.started", campaign, actor, {"run": run.id})
    except RlbackError as error:
        return None, error.message
    return (run.id, None) if run else (None, "it is carried on already")


def _told(choice: starting.Choice) -> dict[str, Any]:
    config = choice.config
    about = plain(choice.about, ABOUT_CHARS).as_json()
    told: dict[str, Any] = {"config": choice.file, "about": about, "error": choice.error or None, "remedy": choice.remedy}
    if config is not None:
        told |= {
            "policy": config.policy, "rounds": config.rounds, "method": config.optimise.method, "world": config.source.world,
            "needs": [key for key, must in starting.needed(config).items() if must],
            "people": {"label": config.labels.annotators == "human", "decide": config.gate.approver == "human"},
        }  # fmt: skip
    return told
