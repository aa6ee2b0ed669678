"""How far a run of benchmarks is, and how long it still takes."""

from __future__ import annotations

import sys
import time

from benchmarks.shapes import Plan

#: Seconds a step takes at about, both sides together, at the small shape; for a bar that moves evenly.
STEP_S = {"rloo": 1.7, "reward": 1.6, "dpo": 2.3, "generate": 0.6}
SHAPE_FACTOR = {"small": 1.0, "25m": 10.0}
START_S = 15.0
EXTRA_S = {"help": 3.0, "import": 40.0, "checkpoint": 15.0, "campaign": 120.0}


def expected(workload: str, shape: str, plan: Plan) -> float:
    """Seconds a workload takes at about."""
    return START_S + STEP_S[workload] * SHAPE_FACTOR[shape] * (plan.warm + plan.blocks * (plan.settle + plan.steps + 0.5))


class Progress:
    """Reports on standard error: one line that is rewritten on a terminal, a line for each workload elsewhere."""

    def __init__(self, total: float, *, quiet: bool = False) -> None:
        self._total, self._done, self._base, self._span = total, 0.0, 0.0, 0.0
        self._began = time.monotonic()
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._name = ""

    def begin(self, name: str, span: float) -> None:
        """A part that is expected to take `span` seconds begins."""
        self._name, self._base, self._span = name, self._base + self._span, span
        self.at(0.0, announce=True)

    def at(self, share: float, *, announce: bool = False) -> None:
        """`share` (0 to 1) of the part is done."""
        if self._quiet:
            return
        done = min(1.0, (self._base + share * self._span) / self._total)
        line = f"{done:4.0%} {self._name:<16} {self._left(done)}"
        if self._terminal:
            print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)
        elif announce:
            print(line, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        print(f"\r{text:<78}" if self._terminal else text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Everything is done."""
        if self._terminal and not self._quiet:
            print(f"\r{'':<78}\r", end="", file=sys.stderr, flush=True)

    def _left(self, done: float) -> str:
        passed = time.monotonic() - self._began
        # Before a tenth is done, what was expected says more than what was seen.
        left = self._total - passed if done < 0.1 else passed * (1 - done) / done
        minutes, seconds = divmod(round(max(0.0, left)), 60)
        return f"about {minutes} min {seconds:02d} s left"
