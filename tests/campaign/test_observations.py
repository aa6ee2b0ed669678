"""What is measured of each optimiser step: gold's baseline, and lines that a kill cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlback.campaign.observations import Observer, exposure_sums, read_observations
from rlback.training.on_policy import StepRecord
from tests.training.tiny import BOS, EOS, A, B, policy


def record(step: int, completions: list[list[int]], *, samples: int) -> StepRecord:
    """Completions of which the first half was paid 1 and the others -1."""
    n = len(completions)
    paid = torch.tensor([1.0 if row < n // 2 or n == 1 else -1.0 for row in range(n)])
    return StepRecord(
        step=step, prompts=((BOS,),) * n, completions=tuple(map(tuple, completions)), finished=(True,) * n,
        mask=torch.ones(n, 2, dtype=torch.bool), scores=paid, rewards=paid, advantages=paid, weights=paid.abs(),
        kl=torch.zeros(n), kl_k3=0.0, loss=0.0, grad_norm=0.0, beta=0.0, samples_per_prompt=samples,
    )  # fmt: skip


def observer(file: Path) -> Observer:
    """Gold is 4 for a completion with the letter a, else 0."""
    return Observer(
        file, texts={(BOS,): "x"}, gold=lambda prompt, text, done: 4.0 * ("a" in text), gold_sd=1.0, eps=0.5, lr=0.1,
        reference=policy(), base=None,
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2])
def test_gold_s_baseline_leaves_a_completion_out_of_its_prompt_s_or_of_the_batch(tmp_path: Path, samples: int) -> None:
    """Two paid that gold holds worse than the others, two unpaid that are better. By prompt both of a prompt are alike, so
    nothing was wrong; with one completion a prompt (as PPO has it) the batch is the baseline, and everything was."""
    observer(tmp_path / "o")(record(0, [[B, EOS], [B, EOS], [A, EOS], [A, EOS]], samples=samples))
    (row,) = read_observations(tmp_path / "o")
    assert row["gold"] == 2.0
    assert (row["sign_wrong"], row["sign_all"]) == ((4.0, 4.0) if samples == 1 else (0.0, 4.0))
    assert (row["false_wrong"], row["false_all"]) == ((2.0, 2.0) if samples == 1 else (0.0, 2.0))


def test_of_a_batch_of_one_nothing_is_said(tmp_path: Path) -> None:
    """There is nothing to compare it with: gold is known, and the exposure is 0 of 0."""
    observer(tmp_path / "o")(record(0, [[A, EOS]], samples=1))
    rows = read_observations(tmp_path / "o")
    assert rows[0]["gold"] == 4.0
    assert set(exposure_sums(rows).values()) == {0.0}


def test_the_step_after_a_line_cut_short_has_its_own(tmp_path: Path) -> None:
    """Half a line of step 1, as a full disk leaves it; the run that goes on measures step 1 again, then step 2."""
    file = tmp_path / "o"
    observer(file)(record(0, [[A, EOS]], samples=1))
    with file.open("a") as cut:
        cut.write('{"step":1,"pro')
    again = observer(file)
    for step in (1, 2):
        again(record(step, [[A, EOS]], samples=1))
    assert [row["step"] for row in read_observations(file)] == [0, 1, 2]
