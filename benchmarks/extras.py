"""What surrounds training: answering `--help`, importing, keeping a training state, and a campaign's book-keeping."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.driver import ROOT
from rlback.errors import StageError
from rlback.project import TOOL_ENVIRONMENT

REPEATS = {"help": 7, "import": 3, "checkpoint": 10}
IMPORTS = {"ours": "import rlback.training.on_policy", "trl": "from trl import RLOOTrainer"}

#: Model work in a campaign, wherever it is called from.
INSIDE = (
    ("rlback.training.supervised", "train_base"),
    ("rlback.training.reward", "fit_reward"),
    ("rlback.training.on_policy", "optimise"),
    ("rlback.models.sampler", "sample"),
    ("rlback.models.policy", "token_logps"),
    ("rlback.models.reward_model", "RewardModel.forward"),
)
#: What is called from inside these and is book-keeping all the same.
OUTSIDE = (
    ("rlback.training.state", "StageState.keep"),
    ("rlback.training.state", "StageState.resume"),
    ("rlback.models.checkpoint", "save_policy"),
    ("rlback.campaign.observations", "Observer.__call__"),
    ("rlback.campaign.progress", "ProgressFile.report"),
)


def measure(name: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures and the raw samples of one extra."""
    return {"help": _help, "import": _import, "checkpoint": _checkpoint, "campaign": _campaign}[name]()


def _run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **TOOL_ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise StageError(f"`{' '.join(command)}` failed: {last[0] if last else done.returncode}")
    return done.stdout


def _help() -> tuple[dict[str, float], dict[str, Any]]:
    command = Path(sys.executable).with_name("rlback")

    def once() -> float:
        began = time.perf_counter()
        _run(str(command), "--help")
        return time.perf_counter() - began

    once()
    seconds = [once() for _ in range(REPEATS["help"])]
    return {"help_seconds": round(statistics.median(seconds), 4)}, {"seconds": seconds}


def _import() -> tuple[dict[str, float], dict[str, Any]]:
    """Ours and TRL's RLOO trainer in turn, each in a new process; the figure is ours, both are kept."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for turn in range(1 + REPEATS["import"]):
        for name, statement in IMPORTS.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            taken = float(_run(sys.executable, "-c", code).split()[-1])
            if turn:  # the first reads files from the disk
                seconds[name].append(taken)
    return {"import_seconds": round(statistics.median(seconds["ours"]), 3)}, {"seconds": seconds}


def _checkpoint() -> tuple[dict[str, float], dict[str, Any]]:
    return _in_process("checkpoint")


def _campaign() -> tuple[dict[str, float], dict[str, Any]]:
    return _in_process("campaign")


def _in_process(name: str) -> tuple[dict[str, float], dict[str, Any]]:
    found = json.loads(_run(sys.executable, "-m", "benchmarks.extras", name).strip().splitlines()[-1])
    return found["figures"], found["samples"]


def keep_states() -> dict[str, Any]:
    """Seconds to keep the training state of the small model, on the project's own disk."""
    import torch

    from benchmarks import materials
    from benchmarks.shapes import SHAPES
    from rlback.training.state import StageState
    from rlback.training.updates import adam

    torch.set_num_threads(1)
    model = materials.policy(SHAPES["small"], endless=False).model
    optimiser = adam(list(model.parameters()), lr=1e-5, betas=(0.9, 0.95))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    (ROOT / ".rlback").mkdir(exist_ok=True)
    seconds = []
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=ROOT / ".rlback") as directory:
        state = StageState(Path(directory), "benchmark", model, optimiser, every_s=0.0)
        for step in range(1 + REPEATS["checkpoint"]):
            began = time.perf_counter()
            state.keep(step, {}, now=True)
            seconds.append(time.perf_counter() - began)
    kept = seconds[1:]
    return {"figures": {"checkpoint_cost_s": round(statistics.median(kept), 4)}, "samples": {"seconds": kept}}


def outside_share() -> dict[str, Any]:
    """Share of `rlback run configs/demo.yaml`, from its first import on, that is not model work."""
    began = time.perf_counter()
    from benchmarks.profiling import Stopwatch, wrapped
    from rlback.__main__ import main

    watch = Stopwatch(time.perf_counter)
    names = [(*name, "inside") for name in INSIDE] + [(*name, "outside") for name in OUTSIDE]
    printed = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        with contextlib.redirect_stdout(printed):
            _checked(lambda: main(["init", directory]))
            with wrapped(names, watch) as missing:
                config = str(ROOT / "configs" / "demo.yaml")
                _checked(lambda: main(["--project", directory, "run", config, "--json"]))
        watch.stop()
        total = time.perf_counter() - began
    if missing:
        raise StageError(f"the campaign's work cannot be told apart: {', '.join(missing)} are not there")
    inside = watch.seconds["inside"]
    figures = {"campaign_outside_share": round(1 - inside / total, 4)}
    return {"figures": figures, "samples": {"inside_s": inside, "total_s": total}}


def _checked(command: Callable[[], int]) -> None:
    status = command()
    if status:
        raise StageError(f"rlback ended with status {status}")


if __name__ == "__main__":
    print(json.dumps({"checkpoint": keep_states, "campaign": outside_share}[sys.argv[1]]()))
