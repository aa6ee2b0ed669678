"""What takes a while and can be done before a campaign is carried on: imports, and MLflow's database."""

from __future__ import annotations

import gc
import sys
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
    """Puts Python's garbage collection off while the block imports, and leaves what was imported out of later ones.

    What is imported stays for as long as the process. A collection that looks through all of it takes half a second,
    and there would be several, during the imports and after them. Where the block imports nothing, nothing is left out,
    so that what an earlier campaign of this process held is still freed.
    """
    was, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if was:
            gc.enable()
