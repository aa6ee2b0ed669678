"""A run that is killed at any instant and called again ends in the same weights, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlback.errors import CheckpointError
from rlback.settings import SupervisedConfig
from rlback.training.state import load_state
from rlback.training.supervised import train_base
from tests.training.killed import renames_of
from tests.training.tiny import LOOPS, VARIANTS, copying, policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The states that runs killed with SIGKILL left behind."""
    directory = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.training.killed", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    return directory


@pytest.mark.parametrize("loop", LOOPS)
def test_resumed_weights_equal_uninterrupted_ones(killed: Path, loop: str) -> None:
    """Killed at renames of each of 4 saves (see `renames_of`), a loop resumes at the last whole save and ends equal."""
    uninterrupted = LOOPS[loop](None)
    for renames in renames_of(loop):
        directory = killed / f"{loop}-{renames}"
        state = load_state(directory)
        assert (state.step if state else 0) == (renames - 1) // 2, "which save was the last whole one"
        assert LOOPS[loop](directory) == uninterrupted, f"{loop} killed at rename {renames}"


@pytest.mark.parametrize("loop", [name for name in LOOPS if name not in VARIANTS])
def test_saving_changes_nothing(loop: str, tmp_path: Path) -> None:
    """A run that saves after each step ends where one that never saves does, and so does its last state."""
    saved = LOOPS[loop](tmp_path)
    assert saved == LOOPS[loop](None)
    assert LOOPS[loop](tmp_path) == saved


def test_another_seed_does_not_continue_the_state(tmp_path: Path) -> None:
    """The state of one seed is refused under another one."""
    config = SupervisedConfig(steps=2, batch=4, lr=5e-3)
    train_base(policy(), copying(), config, seed=1, state_dir=tmp_path)
    with pytest.raises(CheckpointError, match="another run"):
        train_base(policy(), copying(), config, seed=2, state_dir=tmp_path)
