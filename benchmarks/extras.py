"""What surrounds training: answering `--help`, importing, keeping a training state, and a campaign's book-keeping."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.driver import ROOT
from rlback.errors import StageError
from rlback.project import TOOL_ENVIRONMENT

REPEATS = {"help": 7, "import": 3, "checkpoint": 10}
IMPORTS = {"ours": "import rlback.training.on_policy", "trl": "from trl import RLOOTrainer"}


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
    return _in_process("benchmarks.extras")


def _campaign() -> tuple[dict[str, float], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as project:
        _run(sys.executable, "-m", "rlback", "init", project)
        return _in_process("benchmarks.campaign", project)


def _in_process(module: str, *arguments: str) -> tuple[dict[str, float], dict[str, Any]]:
    found = json.loads(_run(sys.executable, "-m", module, *arguments).strip().splitlines()[-1])
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


if __name__ == "__main__":
    print(json.dumps(keep_states()))
