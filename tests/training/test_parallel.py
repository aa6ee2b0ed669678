"""Two processes that share every step's rows end where one process does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlback.training.parallel import ALONE, Share
from tests.conftest import ROOT
from tests.training.in_parallel import LOOPS


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that two processes left behind."""
    directory = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "tests.training.in_parallel"]
    workers = [subprocess.Popen([*command, str(rank), "2", str(directory)], cwd=ROOT) for rank in (0, 1)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    return directory


@pytest.mark.parametrize("loop", LOOPS)
def test_two_processes_end_where_one_does(together: Path, loop: str) -> None:
    """The same weights but for rounding, which Adam can blow up to a whole step where a gradient is 0 but for it.

    Such weights are few; rows that a process left out change one in eight or more, in every loop.
    """
    alone, shared = LOOPS[loop](ALONE), load_file(together / f"{loop}.safetensors")
    assert alone.keys() == shared.keys()
    assert far_apart(alone, shared) < 0.005


def far_apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The share of weights that differ by more than a step of the loops here, but for what rounding does to it."""
    return float(torch.cat([((one[name] - other[name]).abs() > 1e-3).flatten() for name in one]).float().mean())


def test_every_row_has_one_process() -> None:
    """Shares of seven rows, and blocks of five, among three: nothing twice, nothing left out."""
    shares = [Share(rank, 3) for rank in range(3)]
    assert sorted(row for s in shares for row in s.of(range(7))) == list(range(7))
    assert [i for s in shares for i in range(5)[s.block(5)]] == list(range(5))
