"""Runs the units of a study: Prefect tasks that wait for worker processes, or the processes alone.

The workers know nothing of Prefect, so that they start in a second; its part is to show, order and retry tasks. What
has been done is told by the parts on disk alone.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlback.disks import sweep
from rlback.orchestration import engine
from rlback.project import Project
from rlback.studies import units as parts
from rlback.studies.config import Study
from rlback.studies.units import Unit

#: Arms that one task computes in one process, which makes their common start once.
ARMS_PER_TASK = 6
_PR_SET_PDEATHSIG = 1

Group = list[tuple[str, str, int]]
Compute = Callable[[Group], int]


def run(
    project: Project | None, study: Study, tree: dict[str, Any], out: Path, workers: int, told: Callable[[int, int], None]
) -> list[Unit]:
    """Computes what is missing of a study; `told` hears how many units are done, of how many. Without a project there
    is no Prefect server, and the processes are used directly. Returns all units.
    """
    sweep(out)
    everything = parts.units_of(study, out)
    first = [u for u in everything if u.after is None]
    later = [u for u in everything if u.after is not None]
    with _counting(everything, told), _workers(workers) as pool:

        def compute(group: Group) -> int:
            return pool.submit(parts.run_units, tree, study.place, len(study.seeds), group, out).result()

        # Those that read others' parts come in a second wave.
        waves = [[[(u.setting, u.arm, u.seeds[0]) for u in g] for g in parts.batches(parts.missing(wave), ARMS_PER_TASK)]
                 for wave in (first, later)]  # fmt: skip
        waves = [groups for groups in waves if groups]
        if waves and project is not None:
            _by_prefect(project, study.name, waves, compute, workers)
        else:
            for groups in waves:
                _directly(groups, compute, workers)
    return everything


def _by_prefect(project: Project, name: str, waves: list[list[Group]], compute: Compute, workers: int) -> None:
    # One server for all waves: Prefect's client keeps the address of the first it met.
    with engine.server(project) as until_it_answers:
        flow = engine.load_flow(engine.flows_directory() / "study_flow.py").study_flow
        until_it_answers()
        for groups in waves:
            flow.with_options(task_runner=_threads(workers))(name, groups, compute)


def _directly(groups: list[Group], compute: Compute, workers: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as waiting:
        for future in [waiting.submit(compute, group) for group in groups]:
            future.result()


def _threads(workers: int) -> Any:
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=workers)


@contextmanager
def _workers(count: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
    try:
        # All workers start here: the system ends them with the thread that started them, and this one stays.
        for started in [pool.submit(os.getpid) for _ in range(count)]:
            started.result()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """In a worker: one thread for products, and an end when the parent ends, however it ends."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def _counting(units: list[Unit], told: Callable[[int, int], None]) -> Iterator[None]:
    ended = threading.Event()

    def count() -> None:
        while True:
            told(sum(unit.part.exists() for unit in units), len(units))
            if ended.wait(0.5):
                break

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        told(sum(unit.part.exists() for unit in units), len(units))
