"""A study as a Prefect flow: one task for a few arms of one setting and chunk of seeds. Run it with `rlback study`."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

Group = list[tuple[str, str, int]]


@task(retries=1, retry_delay_seconds=2, persist_result=False, cache_policy=NO_CACHE)
def run_group(group: Group, compute: Callable[[Group], int]) -> int:
    """Waits for a worker process that computes these units; parts that are there already cost nothing."""
    return compute(group)


@flow(name="study", flow_run_name="{name}", persist_result=False, validate_parameters=False)
def study_flow(name: str, groups: list[Group], compute: Callable[[Group], int]) -> int:
    """All groups, as many at a time as the task runner has workers. Raises what a group raised."""
    del name
    futures = []
    for group in groups:
        setting, arm, seed = group[0]
        run = run_group.with_options(task_run_name=f"{setting} {arm} +{len(group) - 1} from seed {seed}")
        futures.append(run.submit(group, compute))
    return sum(future.result() for future in futures)
