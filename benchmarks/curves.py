"""`python -m benchmarks.curves`: does bf16 learn as fp32 does? RLOO in both, seed by seed, on a reward known by rule.

A completion is worth the share of its words that lie in the first eighth of the vocabulary, so a curve is the policy's own
doing and no reward model's. Both precisions of a seed start from the same weights and meet the same prompts; from the first
update on their samples differ, so what is compared is curves, not numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks import materials, surroundings
from benchmarks.driver import ROOT
from benchmarks.shapes import KL_BETA, PROMPTS_PER_STEP, SAMPLES_PER_PROMPT, SHAPES, Shape
from rlback.records import seed_of
from rlback.settings import RLOOConfig

PRECISIONS = ("fp32", "bf16")
NEW_TOKENS = 24
LR = 1e-3
#: A curve is looked at in this many equal stretches of steps.
STRETCHES = 4


@dataclass(frozen=True)
class InFirstEighth:
    """Scores a completion by the share of its ids below an eighth of the vocabulary."""

    below: int
    graded: bool = False

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        """(b,) float32 from 0 to 1; an empty completion scores 0."""
        del prompts
        return torch.tensor([sum(i < self.below for i in ids) / max(len(ids), 1) for ids in completions], dtype=torch.float32)

    def identity(self) -> str:
        """What the scores depend on."""
        return f"share of ids below {self.below}"


def curve(shape: Shape, precision: str, seed: int, steps: int) -> list[float]:
    """Mean score of each step's samples, (steps,)."""
    from rlback.training.on_policy import StepRecord, optimise

    policy, reference = (materials.policy(shape, endless=True) for _ in range(2))
    config = RLOOConfig(
        steps=steps, prompts_per_step=PROMPTS_PER_STEP, samples_per_prompt=SAMPLES_PER_PROMPT, max_new_tokens=NEW_TOKENS,
        lr=LR, beta=KL_BETA / 10, precision=precision,
    )  # fmt: skip
    found: list[float] = []

    def observe(record: StepRecord) -> None:
        found.append(float(record.scores.mean()))

    prompts = materials.prompts(shape, steps * PROMPTS_PER_STEP)
    turned = prompts[seed:] + prompts[:seed]
    scorer = InFirstEighth(shape.vocab // 8)
    optimise(policy, reference, scorer, turned, config, seed=seed_of("benchmark curves", seed), observe=observe)
    return found


def compared(curves: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """A row a stretch of steps: means and deviations over seeds, and the paired difference with its 95 % t interval.

    `curves`: precision -> (seeds, steps). `inside` says whether the interval of the difference holds 0.
    """
    fp32, bf16 = (np.asarray(curves[name]) for name in PRECISIONS)
    rows = []
    for part in np.array_split(np.arange(fp32.shape[1]), STRETCHES):
        a, b = fp32[:, part].mean(1), bf16[:, part].mean(1)
        low, high = stats.ttest_1samp(b - a, 0).confidence_interval(0.95)  # a bootstrap of five seeds is too narrow
        rows.append(
            {"steps": f"{part[0] + 1} to {part[-1] + 1}", "fp32": float(a.mean()), "fp32_sd": float(a.std(ddof=1)),
             "bf16": float(b.mean()), "bf16_sd": float(b.std(ddof=1)), "difference": float((b - a).mean()),
             "low": float(low), "high": float(high), "inside": bool(low <= 0 <= high)}
        )  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 1 where a stretch's difference has an interval without 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="25m")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="5; two or more")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="0")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help=f"40; {STRETCHES} or more")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.seeds < 2 or options.steps < STRETCHES:
        parser.error(f"--seeds takes 2 or more, --steps {STRETCHES} or more")
    torch.set_num_threads(1)
    shape, began, done = SHAPES[options.shape], time.monotonic(), 0
    curves: dict[str, list[list[float]]] = {name: [] for name in PRECISIONS}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for precision in PRECISIONS:
            curves[precision].append(curve(shape, precision, seed, options.steps))
            done += 1
            left = (time.monotonic() - began) / done * (2 * options.seeds - done)
            print(f"{done} of {2 * options.seeds} curves, about {left:.0f} s left", file=sys.stderr, flush=True)
    rows = compared(curves)
    if options.json:
        where = {"cpu": surroundings.cpu(), "versions": surroundings.versions(), "commit": surroundings.commit(ROOT)}
        print(json.dumps({"shape": shape.name, "rows": rows, "curves": curves, **where}, indent=1))
    else:
        whose = f"{shape.name}, {options.seeds} seeds from {options.first_seed} on"
        print(f"mean score of RLOO, {whose}; difference: bf16 less fp32, paired, with 95 % interval")
        for r in rows:
            fp32, bf16 = f"{r['fp32']:.3f} ± {r['fp32_sd']:.3f}", f"{r['bf16']:.3f} ± {r['bf16_sd']:.3f}"
            gap = f"{r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
            print(f"steps {r['steps']:>9}   fp32 {fp32}   bf16 {bf16}   {gap}")
    return 0 if all(r["inside"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
