"""How long a training may take, from a few steps of it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Steps of the shorter and of the longer trial: their difference leaves out what does not grow with the steps.
_SHORT, _LONG = 1, 3


def seconds_of(steps: int, run: Callable[[int], object]) -> float:
    """Seconds that `run(steps)` would take; runs it with 1 and with 3 steps. What it does once is counted once."""
    took = []
    for trial in (_SHORT, _LONG):
        began = time.perf_counter()
        run(trial)
        took.append(time.perf_counter() - began)
    each = max(0.0, took[1] - took[0]) / (_LONG - _SHORT)
    return took[0] + each * max(0, steps - _SHORT)
