"""Runs every loop in child processes that are killed with SIGKILL, each at another instant of its saves.

`python -m tests.training.killed DIRECTORY` leaves the states in DIRECTORY/<loop>-<n>, where the n-th rename
of a file was the last thing the child came to.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.training.tiny import LOOPS, VARIANTS

#: Four steps with a save each, two renames a save: tensors, then the record that makes them valid.
RENAMES = 8


def renames_of(loop: str) -> range:
    """The renames to be killed at: all, or of a variant those before a save's first, one for each step it may stop after."""
    return range(1, RENAMES + 1, 2 if loop in VARIANTS else 1)


def run_until_killed(loop: str, directory: Path, renames: int) -> None:
    """Run the loop; die when it comes to its `renames`-th rename, before that rename is done."""
    done = 0
    rename = os.replace

    def counting(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = counting
    LOOPS[loop](directory)


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    for loop in LOOPS:
        for renames in renames_of(loop):
            child = os.fork()
            if child == 0:
                run_until_killed(loop, directory / f"{loop}-{renames}", renames)
                os._exit(1)
            _, status = os.waitpid(child, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                raise SystemExit(f"{loop} {renames}: was not killed, status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
