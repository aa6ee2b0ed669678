"""How often waiting campaigns are advanced: kept in the ledger, so that it outlives `rlback up` and says who set it.

`rlback up --every`, `rlback schedule` and the console change it with `change`; the worker reads it every few seconds and
keeps the next times planned as flow runs (`keep_planned`), and the console does so at once where Prefect is up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from rlback.errors import ConfigError
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import events
from rlback.orchestration.prefect_api import TEND, WAITING, PrefectApi
from rlback.project import Project
from rlback.records import Actor

EVERY_S = 180.0  # where nobody has said otherwise
LEAST_S, MOST_S = 5.0, 86_400.0
TRIES = 3
AHEAD = 3  # how many times are planned
KIND, SUBJECT = "schedule.changed", "schedule"


@dataclass(frozen=True)
class Schedule:
    """Seconds between two rounds of looking after, and whether they are paused; `by` and `since` of the last change.

    `number` is that change's event, 0 before the first.
    """

    every: float = EVERY_S
    paused: bool = False
    number: int = 0
    by: str | None = None
    since: str | None = None


def current(store: Store) -> Schedule:
    """The schedule in force."""
    return _of(store.first(_NEWEST))


def change(
    project: Project, actor: Actor, *, every: float | None = None, paused: bool | None = None,
    permit: Callable[[Transaction], None] | None = None,
) -> Schedule:
    """Sets what is given, `every` to the whole second, and keeps the rest; an event with its actor, unless nothing changes.

    Raises:
        ConfigError: see `check_every`.
    """
    if every is not None:
        every = check_every(every)
    with project.store.transaction() as transaction:
        if permit is not None:
            permit(transaction)
        held = _of(transaction.execute(_NEWEST).first())
        wanted = (held.every if every is None else every, held.paused if paused is None else paused)
        if wanted == (held.every, held.paused):
            return held
        made = transaction.event(KIND, SUBJECT, actor, {"every_s": wanted[0], "paused": wanted[1]})
    return Schedule(*wanted, number=made.seq, by=actor.name, since=made.time)


def check_every(every: float) -> float:
    """Whole seconds between two times. Raises ConfigError where they are not between `LEAST_S` and `MOST_S`."""
    if not LEAST_S <= (whole := float(round(every))) <= MOST_S:
        raise ConfigError(
            f"every {every:g} seconds is not between {LEAST_S:g} and {MOST_S:g}", remedy="give a number between them, or pause"
        )
    return whole


def next_times(schedule: Schedule, moment: float, ahead: int = AHEAD) -> list[datetime]:
    """The next times, at multiples of `every` seconds since 1970; none while it is paused. `moment` is such a second."""
    if schedule.paused:
        return []
    first = int(moment // schedule.every) + 1
    return [datetime.fromtimestamp(number * schedule.every, UTC) for number in range(first, first + ahead)]


def keep_planned(api: PrefectApi, schedule: Schedule, moment: float) -> None:
    """Plans the times that come next as flow runs and cancels planned ones that are no times of the schedule.

    Each time has a key, so whoever does this together plans it once. It holds the number of the schedule's event, so that
    what was cancelled in a pause is planned anew after it; and a try, for what somebody with an older schedule cancelled.

    Raises:
        PrefectAway, StageError: Prefect does not answer, or nothing serves the deployment.
    """
    held = set()
    for run in api.runs(states=WAITING, limit=200):
        at = datetime.fromisoformat(run.expected).timestamp() if run.expected else moment
        if run.flow != TEND.partition("/")[0] or at <= moment:
            continue
        if schedule.paused or at % schedule.every:
            api.cancel(run.id)
        else:
            held.add(at)
    for at in next_times(schedule, moment):
        if at.timestamp() in held:
            continue
        for again in range(TRIES):
            if api.start(TEND, {}, f"tend-{schedule.number}-{at.timestamp():.0f}-{again}", at=at).state != "CANCELLED":
                break


#: The newest change. Its subject keeps the look-up off the rest of the ledger.
_NEWEST = select(events).where(events.c.subject == SUBJECT, events.c.kind == KIND).order_by(events.c.seq.desc()).limit(1)


def _of(row: object) -> Schedule:
    if row is None:
        return Schedule()
    said = json.loads(row.payload)  # type: ignore[attr-defined]
    return Schedule(said["every_s"], said["paused"], row.seq, row.actor, row.time)  # type: ignore[attr-defined]
