"""Emptying the outbox: flow runs are started, webhooks are told. Safe to run in several processes at once.

A delivery that is on its way is claimed by moving `due`; one whose process died is due again when the claim is over.
A webhook may therefore hear of an event twice, with the same delivery number, and never not at all while tries last.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import insert, select, update

from rlback.campaign.deadlines import say_overdue
from rlback.errors import ConfigError, RlbackError
from rlback.ledger.outbox import PREFECT, WAKING, deliveries, messages
from rlback.ledger.tables import events
from rlback.notices.settings import Webhook, read_webhooks
from rlback.notices.webhooks import NotDelivered, send
from rlback.orchestration.prefect_api import PrefectAway, connect
from rlback.orchestration.running import prefect_api
from rlback.orchestration.waking import campaigns_of, wake
from rlback.project import Project

CLAIM_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 3600.0
ATTEMPTS = 12
AT_ONCE = 50
LOOK_EVERY_S = 5.0
Send = Callable[[Webhook, int, bytes], None]


def deliver_due(project: Project, *, send_one: Send = send, only: str | None = None) -> list[dict[str, Any]]:
    """Delivers what is due now; returns what came of each delivery. `only` names one target.

    Raises:
        ConfigError: `notifications.yaml` is wrong; flow runs are started all the same before it is said.
    """
    wrong: ConfigError | None = None
    hooks: dict[str, Webhook] = {}
    try:
        hooks = {hook.name: hook for hook in read_webhooks(project.root)}
    except ConfigError as error:
        wrong = error
    if wrong is None or only == PREFECT:
        _fan_out(project, hooks if wrong is None else None)
    done = []
    for row in _due(project, only):
        if row.target != PREFECT and wrong is not None:
            continue
        if _claim(project, row):
            done.append(_deliver(project, row, hooks, send_one))
    if wrong is not None and only is None:
        raise wrong
    return done


def outbox_counts(project: Project) -> dict[str, int]:
    """How many deliveries are in each state."""
    found: dict[str, int] = {}
    for row in project.store.rows(select(deliveries.c.state)):
        found[row.state] = found.get(row.state, 0) + 1
    return found


def pending(project: Project) -> list[dict[str, Any]]:
    """Deliveries that wait or were given up, newest first, with the last error."""
    query = (
        select(deliveries, messages.c.kind, messages.c.subject, messages.c.created)
        .join(messages, messages.c.seq == deliveries.c.seq)
        .where(deliveries.c.state.in_(("pending", "given-up")))
        .order_by(deliveries.c.seq.desc())
        .limit(50)
    )
    return [
        {"seq": r.seq, "target": r.target, "kind": r.kind, "subject": r.subject, "created": r.created, "state": r.state,
         "attempts": r.attempts, "error": r.error}
        for r in project.store.rows(query)
    ]  # fmt: skip


def _fan_out(project: Project, hooks: dict[str, Webhook] | None) -> None:
    """Makes a delivery of each message for each target it is for; `hooks` None: the flow runs only, the rest later."""
    if project.store.first(select(messages.c.seq).where(messages.c.fanned == 0).limit(1)) is None:
        return
    with project.store.transaction() as transaction:
        for row in transaction.execute(select(messages).where(messages.c.fanned == 0)).all():
            targets = [PREFECT] if row.kind in WAKING else []
            targets += [name for name, hook in (hooks or {}).items() if row.kind in hook.events]
            held = set(transaction.execute(select(deliveries.c.target).where(deliveries.c.seq == row.seq)).scalars())
            for target in targets:
                if target not in held:
                    transaction.execute(
                        insert(deliveries).values(seq=row.seq, target=target, state="pending", attempts=0, due=0.0, error="")
                    )
            if hooks is not None:
                transaction.execute(update(messages).where(messages.c.seq == row.seq).values(fanned=1))


def _due(project: Project, only: str | None) -> list[Any]:
    query = select(deliveries).where(deliveries.c.state == "pending", deliveries.c.due <= time.time())
    if only is not None:
        query = query.where(deliveries.c.target == only)
    return list(project.store.rows(query.order_by(deliveries.c.seq).limit(AT_ONCE)))


def _claim(project: Project, row: Any) -> bool:
    where = (deliveries.c.seq == row.seq) & (deliveries.c.target == row.target)
    with project.store.transaction() as transaction:
        return bool(
            transaction.execute(
                update(deliveries)
                .where(where, deliveries.c.state == "pending", deliveries.c.due == row.due)
                .values(due=time.time() + CLAIM_S, attempts=row.attempts + 1)
            ).rowcount
        )


def _deliver(project: Project, row: Any, hooks: dict[str, Webhook], send_one: Send) -> dict[str, Any]:
    final, error, state = False, "", "delivered"
    try:
        if row.target == PREFECT:
            state = _wake(project, row.seq)
        elif row.target not in hooks:
            state, error = "given-up", "notifications.yaml no longer names it"
        else:
            send_one(hooks[row.target], row.seq, _body(project, row.seq))
    except NotDelivered as failed:
        error, final = failed.message, failed.final
    except RlbackError as failed:
        error = failed.message
    if error and state == "delivered":
        # A flow run that could not be started is not worth more than the schedule, which does the same.
        state = "given-up" if final or row.attempts + 1 >= ATTEMPTS else "pending"
    wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**row.attempts) * random.uniform(0.8, 1.2)
    where = (deliveries.c.seq == row.seq) & (deliveries.c.target == row.target)
    with project.store.transaction() as transaction:
        transaction.execute(update(deliveries).where(where).values(state=state, error=error[:500], due=time.time() + wait))
    return {"seq": row.seq, "target": row.target, "state": state, "error": error}


def _wake(project: Project, seq: int) -> str:
    subject = project.store.first(select(events.c.subject).where(events.c.seq == seq)).subject
    if prefect_api(project) is None:
        raise PrefectAway("no Prefect server of this project runs", remedy="rlback up")
    api = connect(project)
    started = [wake(project, api, name, f"event-{seq}-{name}") for name in campaigns_of(project, subject)]
    return "delivered" if any(started) else "needless"


def _body(project: Project, seq: int) -> bytes:
    row = project.store.first(select(events).where(events.c.seq == seq))
    told = {
        "event": row.kind, "seq": row.seq, "time": row.time, "subject": row.subject, "actor": row.actor,
        "actor_kind": row.actor_kind, "payload": json.loads(row.payload), "hash": row.hash,
    }  # fmt: skip
    return json.dumps(told, ensure_ascii=True, sort_keys=True).encode("ascii")


class Deliverer:
    """Looks every few seconds, and at once when told to, in a thread of its own."""

    def __init__(self, project: Project, say: Callable[[str], None]) -> None:
        self._project, self._say = project, say
        self._kicked, self._ended = threading.Event(), False
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="deliverer", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def kick(self) -> None:
        """Looks now."""
        self._kicked.set()

    def stop(self) -> None:
        """Ends after what is on its way."""
        self._ended = True
        self._kicked.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ended:
            try:
                say_overdue(self._project)
                deliver_due(self._project)
                self._said = ""
            except Exception as error:
                # It must outlive a locked database and a broken file; the same trouble is said once.
                what = f"outbox: {type(error).__name__}: {str(error)[:300]}"
                if what != self._said:
                    self._say(what)
                self._said = what
            self._kicked.wait(LOOK_EVERY_S)
            self._kicked.clear()
