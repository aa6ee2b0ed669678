"""Starting the flow run that carries a campaign on, where one is due; free of Prefect."""

from __future__ import annotations

from sqlalchemy import select

from rlback.campaign import machine
from rlback.campaign.plan import Finished, Step
from rlback.errors import Held
from rlback.ledger.tables import campaigns
from rlback.orchestration.prefect_api import CARRY_ON, UNDER_WAY, WAITING, FlowRun, PrefectApi
from rlback.project import Project


def campaigns_of(project: Project, subject: str) -> list[str]:
    """The active campaigns that an event of this subject (a campaign, or a policy) is about."""
    column = campaigns.c
    query = select(column.name).where(column.state == "active", (column.name == subject) | (column.policy == subject))
    return [row.name for row in project.store.rows(query)]


def is_held(project: Project, campaign: str) -> bool:
    """Whether a process carries the campaign on at this moment."""
    try:
        with machine.holding(project, campaign):
            return False
    except Held:
        return True


def can_go_on(project: Project, campaign: str) -> bool:
    """Whether there is something to do that needs no person, and nobody is at it."""
    due = machine.what_next(project, campaign)
    ending = isinstance(due, Finished) and campaign in machine.active_campaigns(project)
    return (isinstance(due, Step) or ending) and not is_held(project, campaign)


def waiting_run(api: PrefectApi, campaign: str) -> FlowRun | None:
    """A flow run of this campaign that has been asked for and has not begun its work yet."""
    for run in api.runs(states=(*WAITING, *UNDER_WAY), limit=200):
        if run.campaign == campaign and run.state in (*WAITING, "PENDING"):
            return run
    return None


def wake(project: Project, api: PrefectApi, campaign: str, key: str) -> FlowRun | None:
    """Starts a flow run of a campaign that can go on, unless one is asked for already; None where nothing is due.

    Raises:
        PrefectAway, StageError: Prefect does not answer, or refuses.
    """
    if not can_go_on(project, campaign):
        return None
    held = waiting_run(api, campaign)
    if held is not None:
        return held
    return api.start(CARRY_ON, {"campaign": campaign, "root": str(project.root)}, key, campaign)
