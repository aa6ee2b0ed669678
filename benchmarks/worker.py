"""One side of one workload in a process of its own: `python -m benchmarks.worker SIDE WORKLOAD SHAPE --steps N`.

Sides: ours, peer (TRL, or Hugging Face generate), floor. Prints JSON lines: {"ready"}, one {"block"} with the
seconds of its steps for each block, and last {"facts"}, or {"unavailable": reason}.
"""

from __future__ import annotations

import argparse
import os
import warnings
from typing import Any

from benchmarks.clock import Clock, NotThere, say
from benchmarks.shapes import SHAPES, WORKLOADS, Plan, Shape, Variant

THREADS = 1


def main(arguments: list[str] | None = None) -> int:
    """Runs one worker."""
    options = _options(arguments)
    # Before torch and the tokenizers are loaded: one thread, no network, no telemetry.
    from rlback.project import TOOL_ENVIRONMENT

    count = str(THREADS)
    os.environ.update(TOOL_ENVIRONMENT, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, CUDA_VISIBLE_DEVICES="")
    import torch

    torch.set_num_threads(THREADS)
    warnings.filterwarnings("ignore")
    shape, variant = SHAPES[options.shape], Variant.named(options.variant)
    plan = Plan(options.warm, options.blocks, options.settle, options.steps)
    if options.profile:
        say({"profile": _profile(options.workload, shape, variant, plan)})
        return 0
    from rlback.errors import TrainingDiverged

    clock = Clock(plan, turns=options.turns)
    try:
        facts = _run(options.side, options.workload, shape, variant, clock)
    except (NotThere, TrainingDiverged) as error:
        # In bf16 our self-check of the first step may find that sampling and update disagree: then bf16 is no option.
        say({"unavailable": " ".join(str(error).split())})
        return 0
    if torch.get_num_threads() != THREADS:
        say({"unavailable": f"the run ended with {torch.get_num_threads()} threads instead of {THREADS}"})
        return 1
    say({"facts": facts})
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("ours", "peer", "floor"))
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a block")
    parser.add_argument("--warm", type=int, default=1, help="steps before anything is timed")
    parser.add_argument("--settle", type=int, default=0, help="untimed steps at the start of each block")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--variant", default="fp32", help="fp32 or bf16; /N parts a step, +eager attention (peer only)")
    parser.add_argument("--turns", action="store_true", help="wait for a line on standard input before each block")
    parser.add_argument("--profile", action="store_true", help="where the time of our steps goes")
    return parser.parse_args(arguments)


def _run(side: str, workload: str, shape: Shape, variant: Variant, clock: Clock) -> dict[str, Any]:
    if side == "floor":
        from benchmarks import floor

        return floor.run(workload, shape, variant.precision, clock)
    if side == "ours":
        from benchmarks import ours

        return ours.run(workload, shape, variant, clock)
    from benchmarks import peers

    return peers.run(workload, shape, variant, clock)


def _profile(workload: str, shape: Shape, variant: Variant, plan: Plan) -> dict[str, Any]:
    """Seconds by phase over `plan.steps` steps after the warm-up; then the operators of one further step."""
    from benchmarks import ours
    from benchmarks.profiling import PHASES, Operators, Stopwatch, wrapped

    watch, operators = Stopwatch(), Operators()
    found: dict[str, Any] = {"steps": plan.steps}

    def on_step(done: int) -> None:
        if done == plan.warm:
            watch.clear()
        elif done == plan.warm + plan.steps:
            watch.stop()
            found["seconds"], found["calls"] = dict(watch.seconds), dict(watch.calls)
            operators.start()
        elif done == plan.warm + plan.steps + 1:
            found["operators"] = operators.stop()

    longer = Plan(plan.warm, blocks=1, settle=0, steps=plan.steps + 1)
    with wrapped(PHASES[workload], watch) as found["missing"]:
        ours.run(workload, shape, variant, Clock(longer, turns=False, on_step=on_step))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
