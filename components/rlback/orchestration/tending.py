"""What is done every few minutes: campaigns that can go on are carried on, and the outbox is emptied."""

from __future__ import annotations

import time

from rlback.campaign import machine
from rlback.campaign.deadlines import say_overdue
from rlback.errors import ConfigError
from rlback.orchestration.delivering import deliver_due
from rlback.orchestration.prefect_api import PrefectApi, connect
from rlback.orchestration.waking import wake
from rlback.project import Project


def tend(project: Project, api: PrefectApi | None = None) -> list[str]:
    """One round of looking after; returns what was done, a line each.

    Raises:
        PrefectAway, StageError: Prefect does not answer, or refuses.
    """
    done = say_overdue(project)
    api = api or connect(project)
    for campaign in machine.active_campaigns(project):
        run = wake(project, api, campaign, f"tend-{campaign}-{int(time.time())}")
        if run is not None:
            done.append(f"{campaign}: flow run {run.id[:8]}")
    try:
        delivered = deliver_due(project)
    except ConfigError as error:
        return [*done, error.message]
    told = sum(one["state"] == "delivered" for one in delivered)
    return [*done, *([f"{told} of {len(delivered)} messages delivered"] if delivered else [])]
