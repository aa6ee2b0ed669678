"""What is done while Prefect's server starts, and what a stage does once where it did it several times."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import contextmanager
from typing import Any

import pytest

from rlback.campaign import machine
from rlback.campaign.context import Context, load_recorded
from rlback.campaign.readiness import no_collection
from rlback.config import check_config
from rlback.orchestration import engine
from rlback.project import Project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from tests.conftest import changed

ADA = Actor("ada", "human")


def test_what_stages_import_is_there_and_nothing_is_recorded(project: Project):
    """Training, MLflow's database, DVC and the code's digest: none of it is left for the first stage."""
    name = machine.start(project, check_config(changed(), "tiny"), ADA)
    code = (
        "import sys; from rlback.project import find_project; from rlback.campaign.readiness import get_ready\n"
        "from rlback.campaign.context import code_identity\n"
        f"get_ready(find_project(), {name!r})\n"
        "wanted = {'rlback.training.supervised', 'rlback.training.reward', 'rlback.training.on_policy', 'dvc.repo'}\n"
        "print(sorted(wanted - sys.modules.keys()), code_identity.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project.root)
    assert done.stdout.strip() == "[] 1", done.stderr
    assert (project.root / "mlruns" / "mlflow.db").is_file()
    assert load_recorded(project, name) == {}


def test_a_campaign_that_waits_for_a_person_loads_nothing(project: Project, monkeypatch: pytest.MonkeyPatch):
    """There, a command is to answer at once."""
    from rlback.campaign import readiness

    monkeypatch.setattr(readiness.machine, "what_next", lambda project, name: machine.Waiting("labels", "b", 1, "c"))
    monkeypatch.setattr(readiness, "load_dvc", lambda: pytest.fail("loaded"))
    readiness.get_ready(project, "tiny")


def test_garbage_is_collected_again_after_imports_also_after_an_error():
    assert gc.isenabled()
    with pytest.raises(KeyError), no_collection():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_collection_that_was_off_stays_off():
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_imported_is_left_out_of_collections_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    """Where a process carries a second campaign on, what the first one held must still be freed."""
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    with no_collection():
        pass
    assert frozen == []
    with no_collection():
        monkeypatch.setitem(sys.modules, "imported_for_this_test", sys)
    assert frozen == [True]


def test_imports_are_done_without_collection_before_the_server_is_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch):
    """First the server, then what is loaded beside it, then the wait."""
    order: list[Any] = []

    @contextmanager
    def server(project: Project):
        order.append("server")
        yield lambda: pytest.fail("over") if order.append("wait") is None else None

    monkeypatch.setattr(engine, "server", server)
    monkeypatch.setattr(engine, "get_ready", lambda project, name: order.append(("ready", gc.isenabled())))
    with pytest.raises(pytest.fail.Exception, match="over"):
        engine.advance_through_prefect(project, "tiny")
    assert order == ["server", ("ready", False), "wait"]


def test_a_round_stores_and_reads_each_checkpoint_once(project: Project, monkeypatch: pytest.MonkeyPatch):
    """The step checkpoints go to MLflow in one call; evaluation reads a policy once, the base where it is not the start."""
    stored: list[list[int | None]] = []
    read: list[tuple[str, str]] = []
    log, load, load_rewards = MlflowStore.log_checkpoints, Context.load_policy, Context.load_reward_model

    def logged(self: MlflowStore, checkpoints: Any, **named: Any) -> Any:
        stored.append([new.step for new in checkpoints])
        return log(self, checkpoints, **named)

    def loaded(self: Context, version: Any, *rest: Any, **named: Any) -> Any:
        read.append((self.step.stage, version.digest))
        return load(self, version, *rest, **named)

    def rewards_loaded(self: Context, digest: str) -> Any:
        read.append((self.step.stage, digest))
        return load_rewards(self, digest)

    monkeypatch.setattr(MlflowStore, "log_checkpoints", logged)
    monkeypatch.setattr(Context, "load_policy", loaded)
    monkeypatch.setattr(Context, "load_reward_model", rewards_loaded)
    tree = changed(rounds=1, optimise={"steps": 6, "checkpoint_every": 2})
    name = machine.start(project, check_config(tree, "tiny"), ADA)
    machine.advance(project, name)
    recorded = load_recorded(project, name)
    assert stored == [[None], [None], [2, 4], [6]]  # base, reward model, steps, candidate
    output = recorded[(1, "optimise", 1)]
    assert [kept["step"] for kept in output["step_checkpoints"]] == [2, 4]
    evaluated = [digest for stage, digest in read if stage == "evaluate"]
    assert sorted(evaluated) == sorted([output["digest"], output["reward_model"], output["start_digest"]])
    measured = recorded[(1, "evaluate", 1)]["measured"]
    assert measured["kl_base"] == measured["kl_ref"]
