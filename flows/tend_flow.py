"""The scheduled flow that looks after every campaign: a lost trigger costs minutes, not a stall."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.states import Completed, State

from rlback.orchestration.tending import tend
from rlback.project import Project


@flow(name="tend", flow_run_name="tend", persist_result=False)
def tend_flow(root: str) -> State:
    """Starts a flow run for each campaign that can go on, says overdue gates, and delivers what the outbox holds."""
    done = tend(Project(Path(root)))
    return Completed(name="Tended", message="; ".join(done) or "nothing was due")
