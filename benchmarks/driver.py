"""Runs the sides of a workload in turn, a process each, one of them computing at a time."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.progress import Progress
from benchmarks.shapes import Plan, Variant, variants
from rlback.errors import StageError

ROOT = Path(__file__).resolve().parents[1]
#: Processor seconds by wall seconds below which other programs are taken to have disturbed a run.
QUIET = 0.97


class Unavailable(Exception):
    """A side cannot run this workload; the message says why."""


class Worker:
    """One worker process, from its start to its last line."""

    def __init__(self, side: str, workload: str, shape: str, variant: str, plan: Plan, *, profile: bool = False) -> None:
        self.side, self.variant = side, variant
        self.name = f"{side} {workload} {shape} {variant}"
        counts = {"warm": plan.warm, "settle": plan.settle, "steps": plan.steps, "blocks": plan.blocks}
        command = [
            sys.executable, "-m", "benchmarks.worker", side, workload, shape, "--variant", variant,
            *(part for name, value in counts.items() for part in (f"--{name}", str(value))),
            "--profile" if profile else "--turns",
        ]  # fmt: skip
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the worker)
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.turns: list[list[float]] = []
        self.cpu: list[list[float]] = []
        self.lines: list[dict[str, Any]] = []

    def expect(self, key: str) -> Any:
        """The value of the next line of the worker that has `key`; other lines, of other libraries, are passed over.

        Raises Unavailable when the worker says that it cannot run, StageError when it ends without an answer.
        """
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = _object(text)
            if "unavailable" in line:
                raise Unavailable(line["unavailable"])
            if key in line:
                if key == "block":
                    self.turns.append(line["seconds"])
                    self.cpu.append(line["cpu"])
                    self.lines.append(line)
                return line[key]
        self._process.wait()
        self._errors.seek(0)
        last = " / ".join(self._errors.read().strip().splitlines()[-3:])
        raise StageError(
            f"the worker `{self.name}` ended with status {self._process.returncode} before its {key}: {last or 'no message'}",
            remedy=f"run it alone: python -m benchmarks.worker {' '.join(self._process.args[3:6])}",
        )

    def turn(self) -> None:
        """Lets the worker compute one block, and waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.expect("block")

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def sample(self) -> dict[str, Any]:
        """What is kept of this side: its setting, and the seconds of every timed step, turn by turn."""
        return {"variant": self.variant, "turns": self.turns, "cpu": self.cpu}

    def second_floor(self) -> dict[str, Any] | None:
        """Of a floor: the same by the other library, with the rates of both; None where there is no other."""
        if "onednn" not in self.lines[0]:
            return None
        last = self.lines[-1]
        return {
            "variant": self.variant,
            "turns": [line["onednn"] for line in self.lines],
            "cpu": [line["onednn_cpu"] for line in self.lines],
            "gflops": {"mm": last["mm_gflops"], "onednn": last["onednn_gflops"]},
        }


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def measure(workload: str, shape: str, plan: Plan, progress: Progress) -> dict[str, Any]:
    """The samples of one workload: ours, the peer's and the floor's, and the settings that were tried.

    Every side starts with all its variants; the fastest of the first block goes on alone. The floor is that of our
    variant's precision. Raises Unavailable when a side has no variant that runs, StageError when the two sides
    turn out not to have done the same work.
    """
    names = {side: variants(side, workload, shape) for side in ("ours", "peer")}
    names["floor"] = tuple(dict.fromkeys(Variant.named(name).precision for name in names["ours"]))
    workers: list[Worker] = []
    reasons: dict[str, str] = {}
    try:
        # One after the other: what is computed before the first step may count (see _spread).
        for side, name in ((side, name) for side, tried in names.items() for name in tried):
            workers.append(Worker(side, workload, shape, name, plan))
            try:
                workers[-1].expect("ready")
            except Unavailable as error:
                reasons[side] = f"{name}: {error}"
                workers.pop().close()
        running = list(workers)
        for side in ("ours", "peer"):
            if not any(worker.side == side for worker in running):
                raise Unavailable(reasons[side])
        for worker in running:
            worker.turn()
        chosen = {side: fastest(w for w in running if w.side == side) for side in ("ours", "peer")}
        precision = Variant.named(chosen["ours"].variant).precision
        chosen["floor"] = next(w for w in running if w.side == "floor" and w.variant == precision)
        for worker in running:
            if worker not in chosen.values():
                worker.close()
        for block in range(1, plan.blocks):
            progress.at(block / plan.blocks)
            for worker in chosen.values():
                worker.turn()
        facts = {side: worker.expect("facts") for side, worker in chosen.items()}
        _same_work(workload, facts["ours"], facts["peer"])
        samples = {side: worker.sample() for side, worker in chosen.items()}
        if (second := chosen["floor"].second_floor()) is not None:
            samples["onednn_floor"] = second
        _spread(samples["ours"], facts["ours"].get("before_s", (0.0, 0.0)), plan)
        tried = {f"{w.side} {w.variant}": w.turns[0] for w in running if w.side != "floor"}
        return {**samples, "tried": tried, "dropped": reasons, "tokens_per_step": facts["ours"]["tokens"]}
    finally:
        for worker in workers:
            worker.close()


def fastest(workers: Iterable[Worker]) -> Worker:
    """The worker whose first block took least processor time by its median step: one turn by the wall is easily disturbed."""
    return min(workers, key=lambda worker: statistics.median(worker.cpu[0]))


def _same_work(workload: str, ours: Mapping[str, Any], peer: Mapping[str, Any]) -> None:
    for name in ("weights", "data", "tokens"):
        if ours[name] != peer[name]:
            raise StageError(
                f"{workload}: the two sides did not do the same work: {name} {ours[name]} against {peer[name]}",
                remedy="correct benchmarks/ours.py or benchmarks/peers.py; these timings say nothing",
            )


def _spread(sample: dict[str, Any], before: tuple[float, float], plan: Plan) -> None:
    """Shares out among the steps what was computed for them before the first one."""
    for name, seconds in zip(("turns", "cpu"), before, strict=True):
        sample[name] = [[step + seconds / plan.total for step in turn] for turn in sample[name]]
    sample["before_s"] = before


def quietness(sample: Mapping[str, Any]) -> float:
    """Processor seconds by wall seconds over the timed steps of the two sides, the smaller of the two medians."""
    return min(
        statistics.median(
            cpu / wall
            for walls, cpus in zip(sample[side]["turns"], sample[side]["cpu"], strict=True)
            for wall, cpu in zip(walls, cpus, strict=True)
        )
        for side in ("ours", "peer")
    )


def profile(workload: str, shape: str, variant: str, steps: int) -> dict[str, Any]:
    """Where our step's processor time goes (see profiling.py), and each phase's floor. Raises as `measure` does."""
    plan = Plan(warm=2, blocks=1, settle=0, steps=steps)
    found: list[Any] = []
    for side, key, profiling in (("ours", "profile", True), ("floor", "facts", False)):
        worker = Worker(side, workload, shape, variant, plan, profile=profiling)
        try:
            if side == "floor":
                worker.expect("ready")
                worker.turn()
            found.append(worker.expect(key))
        finally:
            worker.close()
    floors = {name.removesuffix(" cpu"): of for name, of in found[1]["phases"].items() if name.endswith(" cpu")}
    return {**found[0], "floors": floors}
