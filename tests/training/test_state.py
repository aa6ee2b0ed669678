"""Saving and loading a training state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlback.errors import CheckpointError
from rlback.models.digests import weights_digest
from rlback.training.state import StageState, load_state, save_state, tokens_digest


def _save(directory: Path, step: int) -> None:
    save_state(directory, step, {"w": torch.full((3,), float(step))}, {"note": [step]})


def test_the_newest_state_comes_back(tmp_path: Path) -> None:
    """After saves at 1, 2 and 3, tensors, step and extra are those of 3; two slots are on disk, no more."""
    assert load_state(tmp_path) is None
    for step in (1, 2, 3):
        _save(tmp_path, step)
    state = load_state(tmp_path)
    assert state is not None
    assert (state.step, state.extra) == (3, {"note": [3]})
    assert state.tensors["w"].tolist() == [3.0, 3.0, 3.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "slot-0.json",
        "slot-0.safetensors",
        "slot-1.json",
        "slot-1.safetensors",
    ]


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("suffix", "at"), [("safetensors", -1), ("safetensors", 0), ("json", 20), ("json", -5)])
def test_one_flipped_bit_falls_back_to_the_state_before(tmp_path: Path, suffix: str, at: int) -> None:
    """Whichever byte of the newest slot is damaged, step 2 is loaded, and the next save spares it."""
    for step in (1, 2, 3):
        _save(tmp_path, step)
    _flip(tmp_path / f"slot-0.{suffix}", at)
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 2
    _save(tmp_path, 4)
    _flip(tmp_path / "slot-0.safetensors", -1)
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 2


def test_a_kill_between_the_two_files_keeps_the_state_before(tmp_path: Path) -> None:
    """New tensors beside the old record of their slot are no state: step 2 is loaded."""
    for step in (1, 2, 3):
        _save(tmp_path, step)
    (tmp_path / "slot-0.json").write_text((tmp_path / "slot-1.json").read_text())
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 2


def test_leftovers_of_a_killed_save_do_no_harm(tmp_path: Path) -> None:
    """Half a file under its temporary name is ignored, and the next save goes over it."""
    _save(tmp_path, 1)
    (tmp_path / "slot-1.part").write_bytes(b"half")
    (tmp_path / "slot-1.json.part").write_text("{")
    assert load_state(tmp_path).step == 1
    _save(tmp_path, 2)
    assert load_state(tmp_path).step == 2


def test_nothing_whole_is_no_state(tmp_path: Path) -> None:
    """A directory of damaged slots reads as none at all."""
    _save(tmp_path, 1)
    _flip(tmp_path / "slot-0.safetensors", -1)
    assert load_state(tmp_path) is None


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    """Continuing under another identity raises and names the directory to remove."""
    module = torch.nn.Linear(2, 1)
    optimiser = torch.optim.AdamW(module.parameters())
    StageState(tmp_path, "a", module, optimiser, every_s=0).keep(1)
    with pytest.raises(CheckpointError, match="another run") as refused:
        StageState(tmp_path, "b", module, optimiser, every_s=0).resume()
    assert str(tmp_path) in refused.value.remedy


def test_weights_and_moments_survive(tmp_path: Path) -> None:
    """A module restored from a state takes the same next Adam step as the one that was saved."""

    def stepped(module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        module(torch.tensor([[1.0, 2.0]])).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(3)
        module = torch.nn.Linear(2, 1)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    module, optimiser = fresh()
    for _ in range(3):
        stepped(module, optimiser)
    StageState(tmp_path, "run", module, optimiser, every_s=1e9).keep(3, {"seen": 7}, now=True)
    stepped(module, optimiser)

    twin, twin_optimiser = fresh()
    assert StageState(tmp_path, "run", twin, twin_optimiser, every_s=0).resume() == (3, {"seen": 7})
    stepped(twin, twin_optimiser)
    assert weights_digest(twin) == weights_digest(module)


def test_a_state_is_kept_only_when_it_is_time(tmp_path: Path) -> None:
    """With a long interval nothing is written until `now` asks for it."""
    module = torch.nn.Linear(2, 1)
    state = StageState(tmp_path, "run", module, torch.optim.AdamW(module.parameters()), every_s=1e9)
    state.keep(1)
    assert load_state(tmp_path) is None
    state.keep(2, now=True)
    assert load_state(tmp_path).step == 2


def test_digests_tell_borders_and_weights_apart() -> None:
    """[1, 2] [3] is not [1] [2, 3] nor [12] [3]; a weight changed by one bit is another digest."""
    assert len({tokens_digest(x) for x in ([[1, 2], [3]], [[1], [2, 3]], [[12], [3]], [[1, 2, 3]])}) == 4
    module = torch.nn.Linear(2, 1)
    before = weights_digest(module)
    with torch.no_grad():
        module.bias.copy_(torch.nextafter(module.bias, module.bias + 1))
    assert weights_digest(module) != before
