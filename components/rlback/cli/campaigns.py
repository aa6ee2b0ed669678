"""`init`, `run`, `advance`, `status`, `stop`, `report`: starting campaigns and carrying them on."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlback.cli.output import actor_of, next_command, say
from rlback.errors import RlbackError

if TYPE_CHECKING:
    from rlback.project import Project


def init(options: argparse.Namespace) -> int:
    """Makes a project directory."""
    from rlback.data.snapshot import ensure_repo
    from rlback.project import make_project

    project = make_project(Path(options.directory))
    ensure_repo(project.root)
    say(f"{project.root} is an rlback project: ledger in {project.store.where}, registry in mlruns/, data in data/.")
    next_command(f"cd {shlex.quote(str(project.root))} && rlback demo")
    return 0


def run(options: argparse.Namespace) -> int:
    """Starts a campaign and carries it on."""
    from rlback.campaign import machine
    from rlback.campaign.hardware import require_device
    from rlback.campaign.remarks import opening_lines
    from rlback.campaign.startable import require_startable
    from rlback.campaign.starting import INPUTS, check_inputs, count_pairs, overrides_of
    from rlback.config import read_config
    from rlback.project import find_project

    project = find_project()
    config = read_config(Path(options.config), overrides_of(options.set, options.seed))
    given = {key: Path(path) for key in INPUTS if (path := getattr(options, key)) is not None}
    inputs = check_inputs(config, given)
    if options.name is not None:
        machine.check_name(options.name)
    require_device(config)  # before a long file is read for nothing
    if options.dry_run:  # `start` does both too, before it records anything
        machine.describe_inputs(project, config, inputs)
        require_startable(project, config)
    counts = count_pairs(config, inputs)
    if options.dry_run:
        return _dry_run(config, inputs, counts, options)
    name = machine.start(project, config, actor_of(options), name=options.name, inputs=inputs)
    if not options.json:
        say(f"Campaign {name} is started: policy {config.policy}, {config.rounds} rounds, seed {config.seed}.")
        for line in [*(opening_lines(counts) if counts else []), *_precision_lines(config, project, name)]:
            say(line)
    return _carry_on(project, [name], options)


def _precision_lines(config: Any, project: Project, name: str) -> list[str]:
    """Which precision `auto` came to on this machine; nothing where none was asked for."""
    from rlback.campaign import machine

    chosen = machine.config_of(machine.load_campaign(project, name)).base.training
    asked = config.base.training
    if asked is None or chosen is None or asked.precision != "auto":
        return []
    return [f"precision: auto is {chosen.precision} here, the one measured to be worth it on this processor."]


def _dry_run(config: Any, inputs: dict[str, Path], counts: dict[str, Any], options: argparse.Namespace) -> int:
    from rlback.campaign.starting import plan_lines, plan_of, text_of

    if options.json:
        body = {"config": config.model_dump(mode="json"), "plan": plan_of(config), "pairs": counts}
        print(json.dumps({**body, "text": text_of(config, inputs)}))
        return 0
    for line in plan_lines(options.config, config, inputs, counts):
        say(line)
    return 0


def advance(options: argparse.Namespace) -> int:
    """Carries one or all active campaigns on."""
    from rlback.campaign import machine
    from rlback.project import find_project

    project = find_project()
    names = [options.campaign] if options.campaign else machine.active_campaigns(project)
    mended = [] if options.campaign else machine.mend_mirrors(project, names)
    if not options.json:
        for line in mended:
            say(f"MLflow was behind the ledger: {line}")
    if not names:
        if options.json:
            print(json.dumps({"campaigns": [], "mended": mended}))
        else:
            say("No campaign is active.")
            next_command("rlback run CONFIG")
        return 0
    return _carry_on(project, names, options)


def _carry_on(project: Project, names: list[str], options: argparse.Namespace) -> int:
    from rlback.campaign import machine
    from rlback.campaign.remarks import remarks
    from rlback.cli.watching import watched

    outcomes, failed = [], None
    known = {}
    for name in names:
        try:
            known[name] = set(remarks(project, name))
            with watched(project, [name], quiet=options.json):
                if options.engine == "inline":
                    due = machine.advance(project, name)
                else:
                    from rlback.orchestration.engine import advance_through_prefect

                    due = advance_through_prefect(project, name)
        except RlbackError as error:
            # One campaign's trouble does not hold up the others; the first error decides the exit status.
            failed = failed or error
            if len(names) > 1 and not options.json:
                say(f"{name}: {error.message}")
            continue
        outcomes.append((name, due))
    if options.json:
        print(json.dumps({"campaigns": [_as_json(name, due) for name, due in outcomes]}))
    else:
        for name, due in outcomes:
            for line in remarks(project, name):
                if line not in known[name]:  # the others were said by the command that ran their stage
                    say(line)
            _tell(project, name, due)
    if failed is not None:
        raise failed
    return 0


def _as_json(name: str, due: Any) -> dict[str, Any]:
    from rlback.campaign import machine

    if isinstance(due, machine.Waiting):
        what = {"waits_for": due.what, "subject": due.subject, "count": due.count, "command": due.command}
        return {"campaign": name, "state": "waiting", **what}
    if isinstance(due, machine.Finished):
        return {"campaign": name, "state": "finished", "reason": due.reason}
    return {"campaign": name, "state": "due", "round": due.round, "stage": due.stage}


def _tell(project: Project, name: str, due: Any) -> None:
    from rlback.campaign import machine
    if isinstance(due, machine.Waiting):
        many = f"{due.count} comparison{'s' * (due.count != 1)} to be labelled in {due.subject}"
        say(f"{name} waits for {'an annotator' if due.what == 'labels' else 'an approver'}: "
            f"{many if due.what == 'labels' else f'a decision at gate {due.subject}'}.")  # fmt: skip
        next_command(due.command)
    elif isinstance(due, machine.Finished):
        say(f"{name} is finished: {due.reason}.")
        next_command(f"rlback report {name}")


def status(options: argparse.Namespace) -> int:
    """Says what runs, and what waits for whom."""
    from rlback.campaign import machine
    from rlback.campaign.standing import running_line
    from rlback.project import find_project
    from rlback.registry.operations import list_aliases, list_versions

    project = find_project()
    policies = sorted({v.policy for v in list_versions(project.store)})
    active = [(name, machine.what_next(project, name)) for name in machine.active_campaigns(project)]
    running = {name: running_line(project, name) for name, _ in active}
    if options.json:
        body = {
            "policies": {policy: list_aliases(project.store, policy) for policy in policies},
            "campaigns": [{**_as_json(name, due), "running": running[name]} for name, due in active],
        }
        print(json.dumps(body, indent=2))
        return 0
    for policy in policies:
        held = list_aliases(project.store, policy)
        known = ", ".join(f"{alias} {policy}@{n}" for alias, n in sorted(held.items()))
        say(f"{policy}: {known or 'nothing approved, nothing deployed'}")
    for name, due in active:
        if isinstance(due, machine.Waiting):
            whom = "an annotator" if due.what == "labels" else "an approver"
            much = f" ({due.count} to label)" if due.what == "labels" else f" at gate {due.subject}"
            say(f"{name} waits for {whom}{much}")
            next_command(due.command)
        elif isinstance(due, machine.Finished):
            say(f"{name} has nothing left to do: {due.reason}")
            next_command(f"rlback advance {name}")
        elif running[name]:
            say(f"{name} is running: {running[name]}")
        else:
            say(f"{name} can go on: round {due.round}, {due.stage}")
            next_command(f"rlback advance {name}")
    if not active:
        say("No campaign is active.")
        next_command("rlback run CONFIG")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Ends an active campaign."""
    from rlback.campaign import machine
    from rlback.project import find_project

    project = find_project()
    with machine.holding(project, options.campaign):
        machine.stop(project, options.campaign, actor_of(options), options.reason)
    say(f"Campaign {options.campaign} is stopped; its labels, checkpoints and decisions stay.")
    return 0


def report(options: argparse.Namespace) -> int:
    """Writes an HTML report."""
    from rlback.campaign.reports import write_campaign_report
    from rlback.project import find_project

    project = find_project()
    directory = Path(options.output) if options.output else project.reports / options.campaigns[0]
    path = write_campaign_report(project, {name: (name, name) for name in options.campaigns}, directory)
    if options.json:
        print(json.dumps({"campaigns": options.campaigns, "report": str(path)}))
    else:
        say(f"Report: {path}")
    return 0
