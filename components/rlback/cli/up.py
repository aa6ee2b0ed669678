"""`rlback up`: Prefect, MLflow, a worker and the console in one command, until it is stopped."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from rlback.cli.output import actor_of, next_command, say
from rlback.errors import ConfigError

if TYPE_CHECKING:
    from rlback.orchestration.schedule import Schedule
    from rlback.project import Project


def up(options: argparse.Namespace) -> int:
    """Starts the services, prints where they answer, and ends them all when it ends."""
    from rlback.orchestration.running import forget_services, write_services
    from rlback.orchestration.schedule import change, check_every, current
    from rlback.orchestration.services import NAMES, Watch, check_port, make_services
    from rlback.project import find_project

    project = find_project()
    only = _only(options.only, NAMES)
    ports = {name: getattr(options, f"{name}_port") for name in ("prefect", "mlflow", "console")}
    _require_different({name: port for name, port in ports.items() if name in only})
    if options.every is not None:
        check_every(options.every)
    if options.at_once < 1:
        raise ConfigError("--at-once is at least 1")
    with project.lock("up", "rlback up"):
        for name, port in ports.items():
            if name in only:
                check_port(name, port)
        project.require_space()
        if options.every is not None:
            change(project, actor_of(options), every=options.every)
        schedule = current(project.store)
        project.store.close()
        services = make_services(project, only, ports, at_once=options.at_once)

        def tell(name: str, what: str) -> None:
            print(f"{name:<8} {what}", file=sys.stderr, flush=True)

        watch = Watch(project, services, tell)
        before = {number: signal.signal(number, watch.stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            write_services(project, {s.name: {"url": s.url} for s in services if s.url})
            if watch.start():
                addresses = {s.name: {"url": s.url, "pid": s.process.pid} for s in services if s.process}
                write_services(project, addresses)
                _print(project, addresses, schedule, options.json)
                watch.watch()
        finally:
            for number in before:
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not leave half of them behind
            watch.end()
            forget_services(project)
            for number, handler in before.items():
                signal.signal(number, handler)
    print("all of them are ended; nothing recorded is lost", file=sys.stderr)
    return 0


def schedule(options: argparse.Namespace) -> int:
    """Says how often waiting campaigns are advanced, or changes it."""
    from rlback.orchestration.schedule import change, current
    from rlback.project import find_project

    project = find_project()
    paused = True if options.pause else False if options.resume else None
    if options.every is None and paused is None:
        found = current(project.store)
    else:
        found = change(project, actor_of(options), every=options.every, paused=paused)
    if options.json:
        print(json.dumps({"every_s": found.every, "paused": found.paused, "by": found.by, "since": found.since}))
        return 0
    say(schedule_line(found))
    return 0


def schedule_line(schedule: Schedule) -> str:
    """The schedule in a sentence."""
    who = f" (set by {schedule.by}, {schedule.since})" if schedule.by else ""
    if schedule.paused:
        return f"Waiting campaigns are not advanced by the schedule: it is paused{who}. `rlback schedule --resume` ends that."
    return f"Waiting campaigns are advanced every {schedule.every:g} s{who}."


def _only(asked: str | None, names: tuple[str, ...]) -> list[str]:
    if asked is None:
        return list(names)
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None or not wanted:
        raise ConfigError(f"--only: {unknown or 'nothing'} is no service", remedy=f"services: {', '.join(names)}")
    return [name for name in names if name in wanted]


def _require_different(ports: dict[str, int]) -> None:
    for name, port in ports.items():
        twin = next((other for other, at in ports.items() if other != name and at == port), None)
        if twin is not None:
            raise ConfigError(f"{name} and {twin} cannot both have port {port}", remedy=f"give one another: --{twin}-port N")


def _print(project: Project, addresses: dict[str, Any], schedule: Schedule, as_json: bool) -> None:
    from rlback.accounts.users import count_users

    logs = str(project.logs)
    if as_json:
        told = {"every_s": schedule.every, "paused": schedule.paused}
        print(json.dumps({"services": addresses, "logs": logs, "schedule": told}), flush=True)
        return
    for name, at in addresses.items():
        say(f"{name:<8} {at['url'] or 'serves the deployments carry-on and tend'}")
    if "worker" in addresses:
        say(schedule_line(schedule))
    say(f"Logs are in {logs}. Ctrl-C ends them all; nothing recorded is lost.")
    if "console" in addresses and not count_users(project.store):
        next_command("rlback users add NAME --role admin   # before the first sign-in, in another terminal")
    sys.stdout.flush()
