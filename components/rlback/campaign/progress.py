"""How far a stage is: a small file beside the ledger, rewritten in place, for people to look at.

It is a display, never a record: nothing is decided by what it says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlback.campaign.plan import Step, stages_of_round
from rlback.config import CampaignConfig
from rlback.disks import write_whole
from rlback.records import Report

WRITE_EVERY_S = 0.5  # each takes the place of a file, for which some file systems wait for the disk


class ProgressFile:
    """Writes the progress of one stage; readers use `read_progress`."""

    def __init__(self, path: Path, config: CampaignConfig, step: Step) -> None:
        self._path = path
        self._step = step
        self._config = config
        self._began = time.time()
        self._last = 0.0
        self._paced: tuple[float, int] | None = None
        self._part: str | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(0, 0, {})

    def report(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """A `records.Report`: writes at most twice a second."""
        if self._paced is None:
            # Pace is counted from here: what came before prepared, or was done before an interruption.
            self._paced = (time.time(), done)
        if done == total or time.monotonic() - self._last >= WRITE_EVERY_S:
            self._last = time.monotonic()
            self._write(done, total, metrics)

    def part(self, said: str) -> Report:
        """The stage is through its steps and does what is `said` now, which is counted from its own beginning."""
        self._part, self._paced = said, None
        self._write(0, 0, {})
        return self.report

    def done(self, seconds: float) -> None:
        """The stage is recorded."""
        self._write(1, 1, {"seconds": seconds}, recorded=True)

    def _write(self, done: int, total: int, metrics: Mapping[str, float], recorded: bool = False) -> None:
        order = stages_of_round(self._config, self._step.round)
        passed = order.index(self._step.stage) + recorded
        content = {
            "pid": os.getpid(),
            "round": self._step.round,
            "rounds": self._config.rounds,
            "stage": self._step.stage,
            "part": self._part,
            "attempt": self._step.attempt,
            "done": done,
            "total": total,
            "passed": passed,
            "of": len(order),
            "began": self._began,
            "paced": self._paced,
            "written": time.time(),
            "metrics": {key: float(value) for key, value in metrics.items()},
        }
        write_whole(self._path, json.dumps(content), writer=os.getpid(), durable=False)


def read_progress(path: Path) -> dict[str, Any] | None:
    """What a campaign's progress file says, or None."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
