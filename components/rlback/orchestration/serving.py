"""The process that runs flow runs: it serves our deployments, one campaign at a time, until it is ended.

    python -m rlback.orchestration.serving [--at-once N]

It lives in the project's directory and asks the server at PREFECT_API_URL. What it runs ends with it, also when it
is killed: a stage under way loses what it did since its last state of 20 seconds ago. When it starts it says of the
flow runs that a killed one left behind that they crashed, and carries on the campaigns that can go on.

The times of the schedule (orchestration/schedule.py) are planned here, a few ahead, as flow runs with a time: the
scheduler inside Prefect 3.8.8 fails with SQLAlchemy 2.1 ("Can't evaluate bulk DML statement") and then plans nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any

from rlback.errors import RlbackError, StageError
from rlback.orchestration.engine import flows_directory, load_flow
from rlback.orchestration.prefect_api import CARRY_ON, TEND, UNDER_WAY, WAITING, PrefectApi, connect
from rlback.orchestration.schedule import current, keep_planned
from rlback.orchestration.tending import tend
from rlback.project import Project, find_project

POLL_S = 3.0
PLAN_S = 30.0  # how often the next times are planned where the schedule has not changed
#: Set for what a serving process runs: it dies with that process.
SERVED = "RLBACK_SERVED_BY"
CARRIES_ON = "Carries one campaign on until a person is needed"
TENDS = "Starts what can go on, and delivers what the outbox holds"


def clear_up(api: PrefectApi) -> list[str]:
    """Says of each flow run that no process runs any more that it crashed, and lets schedules missed meanwhile go.

    To be called while no other serving process of the project lives.
    """
    said = []
    ours = {CARRY_ON.partition("/")[0], TEND.partition("/")[0]}
    for run in api.runs(states=UNDER_WAY, limit=200):
        if run.flow in ours:
            api.set_state(run.id, "CRASHED", "the process that ran it ended; what it had recorded is kept")
            said.append(f"{run.name} {run.id[:8]}: crashed")
    for run in api.runs(states=WAITING, limit=200):
        if run.flow == TEND.partition("/")[0] and run.expected and datetime.fromisoformat(run.expected) < datetime.now(UTC):
            api.set_state(run.id, "CANCELLED", "missed while nothing served it")
    return said


async def _serve(project: Project, at_once: int) -> None:
    from prefect.runner import Runner

    carry_on = load_flow(flows_directory() / "campaign_flow.py").campaign_flow
    tending = load_flow(flows_directory() / "tend_flow.py").tend_flow
    root = str(project.root)
    # Two, so that a training that takes all night does not keep the schedule waiting.
    working = Runner(name="carry-on", limit=at_once, query_seconds=POLL_S, pause_on_shutdown=False)
    looking = Runner(name="tend", limit=1, query_seconds=POLL_S, pause_on_shutdown=False)
    # By file, not by object: each flow run is then a plain `python -m prefect.engine` of its own.
    await working.add_deployment(await carry_on.ato_deployment(CARRY_ON.partition("/")[2], description=CARRIES_ON))
    await looking.add_deployment(
        await tending.ato_deployment(TEND.partition("/")[2], parameters={"root": root}, description=TENDS)
    )
    api = connect(project)
    for line in [*clear_up(api), *([] if current(project.store).paused else tend(project, api))]:
        print(line, flush=True)
    print("serving", flush=True)
    ready = project.state / "worker.ready"
    ready.write_text(str(os.getpid()))
    await asyncio.gather(working.start(), looking.start(), _plan(project, api))


async def _plan(project: Project, api: PrefectApi) -> None:
    """Keeps the next times of the schedule planned; a change of it holds within seconds."""
    planned: tuple[int, float] | None = None
    while True:
        try:
            schedule, moment = await asyncio.to_thread(current, project.store), time.time()
            if planned is None or planned[0] != schedule.number or moment - planned[1] >= min(schedule.every, PLAN_S):
                await asyncio.to_thread(keep_planned, api, schedule, moment)
                planned = (schedule.number, moment)
        except RlbackError as error:
            print(f"the schedule could not be planned: {error.message}", file=sys.stderr, flush=True)
        await asyncio.sleep(POLL_S)


def _end(*_: Any) -> None:
    # What it runs is tied to it (see `die_with_server`) and all of it can be taken up again: nothing to wait for.
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m rlback.orchestration.serving")
    parser.add_argument("--at-once", type=int, default=1, help="how many campaigns are carried on at once")
    options = parser.parse_args(arguments)
    project = find_project()
    os.environ[SERVED] = str(os.getpid())
    with project.lock("worker", "the worker of this project"):
        loop = asyncio.new_event_loop()
        task = loop.create_task(_serve(project, options.at_once))
        # The runners set a handler of their own for SIGTERM when they start; ours comes after them.
        loop.call_later(POLL_S, lambda: [signal.signal(s, _end) for s in (signal.SIGTERM, signal.SIGINT)])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        loop.run_until_complete(task)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StageError as error:
        print(f"{error.message}\n{error.remedy or ''}", file=sys.stderr)
        sys.exit(error.exit_code)
