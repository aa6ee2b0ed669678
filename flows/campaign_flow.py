"""The campaign as a Prefect flow: order, retries, timeouts and artifacts; no arithmetic.

Run it with `rlback advance`, or as `python -m flows.campaign_flow CAMPAIGN` from the project's root. A flow run
never waits for people: it ends in the state AwaitingLabels, AwaitingApproval or CampaignFinished, and the
decision, or a schedule, starts the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prefect import flow, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from rlback.campaign import machine
from rlback.campaign.evidence import evidence_markdown
from rlback.campaign.plan import Step
from rlback.errors import Held, RlbackError
from rlback.orchestration.engine import die_with
from rlback.project import Project, find_project
from rlback.registry.gates import find_gate
from rlback.registry.mlflow_store import MlflowStore

#: Seconds after which a stage counts as stuck. Training may take hours on a real model; the others may not.
TIMEOUTS = {"base": 24 * 3600, "fit_reward": 12 * 3600, "optimise": 24 * 3600}
OTHER_TIMEOUT = 3600


def _worth_another_try(task_, run, state: State) -> bool:  # type: ignore[no-untyped-def]
    """A stage is tried again after a fault of the machine, never after an error that it explained."""
    del task_, run
    try:
        state.result()
    except RlbackError:
        return False
    except Exception:
        return True
    return False


@task(
    retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=_worth_another_try, persist_result=False, cache_policy=NO_CACHE
)
def run_stage(round_: int, stage: str, attempt: int, run: Callable[[Step], object]) -> None:
    """Runs and records one stage; the ledger knows whether that has happened already."""
    run(Step(round_, stage, attempt))


def _publish_gate(project: Project, gate_id: str) -> None:
    gate = find_gate(project.store, gate_id)
    key = gate_id.lower().replace(".", "-").replace("_", "-")
    create_markdown_artifact(key=f"gate-{key}", markdown=evidence_markdown(gate), description=f"Evidence at gate {gate.id}")
    report = project.reports / gate.campaign / "index.html"
    if report.exists():
        create_link_artifact(key=f"report-{key}", link=report.as_uri(), description=f"Report of {gate.campaign}")


@flow(name="campaign", flow_run_name="{campaign}", persist_result=False)
def campaign_flow(campaign: str, root: str) -> State:
    """Carries one campaign on until a person is needed or it is finished."""
    die_with("RLBACK_SERVED_BY")
    project = Project(Path(root))
    try:
        return _carry_on(project, campaign, MlflowStore(project.root))
    except Held as error:
        if runtime.deployment.id is None:
            raise
        # Two triggers at once, or somebody at a terminal: whoever holds the campaign does what is due.
        return Completed(name="CarriedOnElsewhere", message=error.message)


def _carry_on(project: Project, campaign: str, registry: MlflowStore) -> State:
    run = partial(machine.run_step, project, campaign, mirror=registry)
    with machine.holding(project, campaign):
        machine.prepare(project, campaign, registry)
        while isinstance(due := machine.what_next(project, campaign), Step):
            timeout = TIMEOUTS.get(due.stage, OTHER_TIMEOUT)
            name = f"r{due.round}-{due.stage}" + (f"-{due.attempt}" if due.attempt > 1 else "")
            run_stage.with_options(name=due.stage, task_run_name=name, timeout_seconds=timeout)(
                due.round, due.stage, due.attempt, run
            )
            if due.stage == "evaluate":
                _publish_gate(project, machine.gate_of(project, campaign, due))
        if isinstance(due, machine.Waiting):
            name = "AwaitingApproval" if due.what == "approval" else "AwaitingLabels"
            return Completed(name=name, message=f"{due.subject}: {due.command}")
        machine.finish(project, campaign, due.reason)
    return Completed(name="CampaignFinished", message=due.reason)


if __name__ == "__main__":
    here = find_project()
    campaign_flow(sys.argv[1], str(here.root))
