"""What takes a while and can be done before a campaign is carried on: imports, and MLflow's database."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from rlback.campaign import machine
from rlback.campaign.context import code_identity, load_campaign
from rlback.campaign.plan import Step
from rlback.data.dvc_access import load_dvc
from rlback.project import Project
from rlback.registry.mirroring import require_mirrored
from rlback.registry.mlflow_store import MlflowStore


def get_ready(project: Project, name: str) -> None:
    """Loads and makes what the next stage needs and nothing of it depends on, while the caller waits for something else.

    Optional, and harmless beside a process that carries the campaign on: a stage loads what is missing.
    """
    if isinstance(machine.what_next(project, name), Step):
        for module in ("supervised", "reward", "on_policy"):
            import_module(f"rlback.training.{module}")
        mirror = MlflowStore(project.root)
        require_mirrored(project, mirror, load_campaign(project, name).policy)
        with project.naming_full_disk():
            mirror.prepare()
        load_dvc()
        code_identity()  # remembered, for it is in every lineage


@contextmanager
def no_collection() -> Iterator[None]:
    """Puts Python's garbage collection off while the block imports.

    What is imported stays for as long as the process, a million objects, and the collector would look through all of
    them again and again: a sixth of the time of our imports.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
