"""Writes the HTML report of campaigns that are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlback.campaign.context import load_campaign, load_recorded
from rlback.campaign.summary import report_data
from rlback.errors import StageError
from rlback.ledger.store import now
from rlback.project import Project


def write_campaign_report(
    project: Project,
    methods: Mapping[str, tuple[str, str]],
    directory: Path,
    *,
    title: str | None = None,
    command: str | None = None,
    seconds: float | None = None,
    verified: bool | None = None,
) -> Path:
    """Writes the report of some campaigns side by side; returns the page's path. `methods` as in `report_data`.

    Raises:
        StageError: a campaign is not there, or has no base policy yet.
    """
    from rlback.evaluation.report import write_report
    from rlback.registry.verification import verify

    total = 0.0
    for _, campaign in methods.values():
        load_campaign(project, campaign)
        recorded = load_recorded(project, campaign)
        if (0, "base", 1) not in recorded:
            raise StageError(f"{campaign} has no base policy yet", remedy=f"rlback advance {campaign}")
        total += _seconds(project, campaign)
    names = [campaign for _, campaign in methods.values()]
    data = report_data(
        project,
        methods,
        title=title or f"Campaign {', '.join(names)}",
        command=command or f"rlback report {' '.join(names)}",
        created=now(),
        seconds=seconds if seconds is not None else total,
        verified=verified if verified is not None else verify(project, None).holds,
    )
    return write_report(data, directory)


def _seconds(project: Project, campaign: str) -> float:
    from sqlalchemy import func, select

    from rlback.ledger.tables import stages

    query = select(func.sum(stages.c.seconds)).where(stages.c.campaign == campaign)
    return float(project.store.rows(query)[0][0] or 0.0)
