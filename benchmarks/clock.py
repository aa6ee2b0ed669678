"""When a worker's steps are timed, and how it waits for its turn. No torch."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.shapes import Plan


class NotThere(Exception):
    """A workload cannot be run: the message says why."""


class TurnsOver(SystemExit):
    """The driver needs no more turns of this worker."""


def say(line: dict[str, Any]) -> None:
    """One JSON line to the driver."""
    print(json.dumps(line), flush=True)


class Clock:
    """Called after every step; times those that the plan wants timed.

    After the warm-up and after every block but the last it waits for a line on standard input when `turns` is set,
    so that only one worker computes at a time. Every block is one line on standard output: wall seconds and
    processor seconds of each of its steps.
    """

    def __init__(self, plan: Plan, *, turns: bool, on_step: Callable[[int], None] | None = None) -> None:
        self.plan, self._turns, self._on_step = plan, turns, on_step
        self._done = 0
        #: (wall, processor) seconds of every timed step so far, and of what came before the first step's end.
        self.timed: list[tuple[float, float]] = []
        self.first: tuple[float, float] | None = None
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self.start()

    def tick(self) -> None:
        """A step is done."""
        wall, cpu = time.perf_counter() - self._wall_at, time.process_time() - self._cpu_at
        self._done += 1
        self.first = self.first or (wall, cpu)
        if self._on_step is not None:
            self._on_step(self._done)
        place = self._done - self.plan.warm
        if place == 0:
            say({"ready": True})
            self.wait()
        elif place > 0:
            block, inside = divmod(place - 1, self.plan.settle + self.plan.steps)
            if inside >= self.plan.settle:
                self._wall.append(wall)
                self._cpu.append(cpu)
                self.timed.append((wall, cpu))
            if inside + 1 == self.plan.settle + self.plan.steps:
                say({"block": block, "seconds": self._wall, "cpu": self._cpu})
                self._wall, self._cpu = [], []
                if block + 1 < self.plan.blocks:
                    self.wait()
        self.start()

    def before(self) -> tuple[float, float]:
        """(wall, processor) seconds from `start` to the first step's end, less a typical step."""
        assert self.first is not None
        wall, cpu = (
            max(0.0, first - statistics.median(steps))
            for first, steps in zip(self.first, zip(*self.timed, strict=True), strict=True)
        )
        return wall, cpu

    def start(self) -> None:
        """What is timed next begins now."""
        self._wall_at, self._cpu_at = time.perf_counter(), time.process_time()

    def wait(self) -> None:
        """Blocks until the driver gives the next turn."""
        if self._turns and not sys.stdin.readline():
            raise TurnsOver(0)
