"""The same numbers as TRL's Reward and DPO trainers, from their own methods, on fixed tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlback.maths import bradley_terry
from rlback.maths.losses import dpo, ipo
from tests.maths.trl_stand_ins import NEW, PADDING, REFERENCE, FixedModel, same_with_gradient, trainer_self

pytest.importorskip("trl", reason="TRL is not installed; it comes with the dev extra")

# --- Reward ---------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([1.3, -0.2, 0.8, 0.4, 0.9, -1.5]).double()  # three chosen, then three rejected


def trl_reward(logits: Tensor, centre: float | None, margins: Tensor | None) -> tuple[Tensor, SimpleNamespace]:
    from trl.trainer.reward_trainer import RewardTrainer

    stand_in = trainer_self(
        RewardTrainer, FixedModel(logits), args=SimpleNamespace(center_rewards_coefficient=centre)
    )
    inputs: dict[str, Any] = {"attention_mask": torch.ones(6, 4)}
    if margins is not None:
        inputs["margin"] = margins
    # The model is asked through `model(**inputs)`; only the answer's logits are read.
    loss = RewardTrainer.compute_loss(stand_in, lambda **_: SimpleNamespace(logits=logits[:, None]), inputs)
    return loss, stand_in


@pytest.mark.parametrize("margins", [None, torch.tensor([0.0, 1.0, 0.33]).double()])
@pytest.mark.parametrize("centre", [None, 0.01])
def test_reward_loss(margins: Tensor | None, centre: float | None) -> None:
    """Bradley-Terry with and without margins and the centring penalty."""

    def ours(logits: Tensor) -> Tensor:
        chosen, rejected = logits.chunk(2)
        penalty = bradley_terry.centering(chosen, rejected) if centre else 0.0
        return bradley_terry.loss(chosen, rejected, margins=margins) + (centre or 0.0) * penalty

    same_with_gradient(LOGITS, lambda logits: trl_reward(logits, centre, margins)[0], ours)


def test_reward_accuracy() -> None:
    """The share of pairs ordered right, where no scores are equal."""
    _, stand_in = trl_reward(LOGITS, None, None)
    expected = stand_in._metrics["train"]["accuracy"][0]
    assert bradley_terry.accuracy(*LOGITS.chunk(2)).item() == pytest.approx(expected)


# --- DPO and IPO ----------------------------------------------------------------------------------------------------

# The four completions as two pairs: the first two chosen, the last two rejected.
REFERENCE_SUMS = (REFERENCE * PADDING).sum(-1)


def trl_dpo(logps: Tensor, loss_type: str, rows: list[int], smoothing: float = 0.0) -> tuple[Tensor, SimpleNamespace]:
    from trl.trainer.dpo_trainer import DPOTrainer

    model = FixedModel((logps * PADDING)[rows])
    stand_in = trainer_self(
        DPOTrainer,
        model,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=0.3,
        label_smoothing=smoothing,
        use_weighting=False,
    )
    mask = torch.cat([torch.zeros(len(rows), 1).long(), PADDING[rows]], 1)  # one prompt token before each completion
    chosen, rejected = REFERENCE_SUMS[rows].chunk(2)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return DPOTrainer._compute_loss(stand_in, model, inputs, False), stand_in


def our_sums(logps: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
    return (*(logps * PADDING).sum(-1)[rows].chunk(2), *REFERENCE_SUMS[rows].chunk(2))


def test_dpo_loss_and_implicit_rewards() -> None:
    """The sigmoid loss, and the mean implicit reward of either side."""
    rows = [0, 1, 2, 3]
    same_with_gradient(
        NEW,
        lambda logps: trl_dpo(logps, "sigmoid", rows)[0],
        lambda logps: dpo(*our_sums(logps, rows), beta=0.3).losses.mean(),
    )
    metrics = trl_dpo(NEW, "sigmoid", rows)[1]._metrics["train"]
    found = dpo(*our_sums(NEW, rows), beta=0.3)
    assert found.chosen_rewards.mean().item() == pytest.approx(metrics["rewards/chosen"][0])
    assert found.rejected_rewards.mean().item() == pytest.approx(metrics["rewards/rejected"][0])


@pytest.mark.parametrize("rows", [[0, 2], [1, 3]])
def test_dpo_with_label_smoothing(rows: list[int]) -> None:
    """TRL's sigmoid loss knows no smoothing; its aot_unpaired does and, for a single pair, is that loss with it."""
    same_with_gradient(
        NEW,
        lambda logps: trl_dpo(logps, "aot_unpaired", rows, smoothing=0.1)[0],
        lambda logps: dpo(*our_sums(logps, rows), beta=0.3, label_smoothing=0.1).losses.mean(),
    )


def test_ipo_is_a_mean_over_tokens_there() -> None:
    """TRL's IPO is ours with the completions' lengths."""
    rows = [0, 1, 2, 3]
    lengths = PADDING.sum(-1)[:2], PADDING.sum(-1)[2:]
    same_with_gradient(
        NEW,
        lambda logps: trl_dpo(logps, "ipo", rows)[0],
        lambda logps: ipo(*our_sums(logps, rows), beta=0.3, lengths=lengths).losses.mean(),
    )
