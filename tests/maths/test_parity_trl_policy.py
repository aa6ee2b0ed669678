"""The same numbers as TRL's RLOO and GRPO trainers, from their own methods, on fixed tensors.

TRL 1.16 has no PPO, so GAE, whitening, the value loss and token-level RLOO have no counterpart there, nor have
best-of-n and ensembles; their tests are worked by hand.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlback.maths import kl
from rlback.maths.advantages import group_normalised, leave_one_out
from rlback.maths.losses import aggregate, clipped_surrogate
from tests.maths.trl_stand_ins import (
    ADVANTAGES,
    MASK,
    MOVE,
    NEW,
    OLD,
    PADDING,
    REFERENCE,
    TOOLS,
    FixedModel,
    same_with_gradient,
    sampling_self,
    trainer_self,
)

pytest.importorskip("trl", reason="TRL is not installed; it comes with the dev extra")

SCORES = torch.tensor([1.0, 2.5, -0.5, 4.0]).double()
LOW, HIGH = 0.2, 0.28

# --- RLOO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_rloo_advantages(beta: float) -> None:
    """Score minus beta times the completion's k1, less the mean of the prompt's others (k = 2 and 4)."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    for k in (2, 4):
        stand_in = sampling_self(
            RLOOTrainer,
            FixedModel(NEW),
            PADDING,
            SCORES,
            beta=beta,
            ref_model=FixedModel(REFERENCE * PADDING),
            num_generations=k,
            reward_clip_range=None,
            normalize_advantages=False,
        )
        batch = RLOOTrainer._generate_and_score_completions(stand_in, [{"prompt": "p"}] * 4)
        completion_kl = kl.per_completion(kl.k1(NEW, REFERENCE), PADDING)
        ours = leave_one_out((SCORES - beta * completion_kl).view(-1, k)).flatten()
        assert batch["completion_mask"].equal(PADDING)
        assert torch.allclose(ours, batch["advantages"], rtol=1e-9)
        if beta:
            mean_token_kl = completion_kl.sum().item() / PADDING.sum().item()
            assert mean_token_kl == pytest.approx(stand_in._metrics["train"]["kl"][0], rel=1e-6)


def rloo_inputs() -> dict[str, Tensor]:
    return {
        "prompt_ids": torch.ones(4, 2).long(),
        "prompt_mask": torch.ones(4, 2).long(),
        "completion_ids": torch.ones(4, 5).long(),
        "completion_mask": PADDING,
        "advantages": ADVANTAGES,
    }


def test_rloo_loss_clips_the_ratio_of_the_sequence() -> None:
    """The surrogate at sequence level, and the share of completions clipped."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    metrics = {}

    def theirs(logps: Tensor) -> Tensor:
        stand_in = trainer_self(RLOOTrainer, FixedModel(logps), epsilon_low=LOW, epsilon_high=HIGH)
        inputs = rloo_inputs() | {"old_logps": (OLD * PADDING).sum(-1)}
        loss = RLOOTrainer._compute_loss(stand_in, stand_in.model, inputs)
        metrics.update(stand_in._metrics["train"])
        return loss

    def ours(logps: Tensor) -> Tensor:
        found = clipped_surrogate(logps, OLD, ADVANTAGES, PADDING, low=LOW, high=HIGH, level="sequence")
        metrics["ours"] = found.share.item()
        return aggregate(found.losses, PADDING, "sequence_mean", completions=4)

    same_with_gradient(OLD + MOVE, theirs, ours)
    assert 0 < metrics["ours"] < 1
    assert metrics["ours"] == pytest.approx(metrics["clip_ratio/region_mean"][0])


# --- GRPO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "divide"), [("group", True), ("none", False)])
def test_grpo_advantages(scale: str, divide: bool) -> None:
    """Divided by the group's deviation (GRPO) or not (Dr. GRPO), in groups of two and of four."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    for k in (2, 4):
        stand_in = sampling_self(
            GRPOTrainer,
            FixedModel(NEW),
            PADDING,
            SCORES,
            beta=0.0,
            num_generations=k,
            num_iterations=1,
            scale_rewards=scale,
            multi_objective_aggregation="sum_then_normalize",
            environment_factories=None,
            environments=None,
            tools=None,
            use_vllm=False,
        )
        batch = GRPOTrainer._generate_and_score_completions(stand_in, [{"prompt": "p"}] * 4)
        ours = group_normalised(SCORES.view(-1, k), divide_by_std=divide).flatten()
        # TRL's k / (k - 1) is computed in single precision, whatever the rewards are in.
        assert torch.allclose(ours, batch["advantages"], rtol=1e-7 if divide else 1e-12)


def trl_grpo(logps: Tensor, loss_type: str, rows: slice, *, parts: int = 1, beta: float = 0.0, **changed: Any):
    """Loss of the rows, one of `parts` micro-batches, and the metrics."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    stand_in = trainer_self(
        GRPOTrainer,
        FixedModel(logps[rows]),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=parts),
        loss_type=loss_type,
        beta=beta,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=parts,
        max_completion_length=20,
        _entropy_bonus_enabled=False,
    )
    inputs = rloo_inputs() | {"tool_mask": TOOLS, "old_per_token_logps": OLD, "ref_per_token_logps": REFERENCE}
    inputs = {name: value[rows] for name, value in (inputs | changed).items()}
    inputs["num_items_in_batch"] = MASK.sum()
    return GRPOTrainer._compute_loss(stand_in, stand_in.model, inputs), stand_in._metrics["train"]


LOSSES = [("grpo", "sequence_mean"), ("dapo", "token_mean"), ("dr_grpo", "constant")]
TOTALS = {"tokens": float(MASK.sum()), "completions": 4, "constant": 20.0}
ALL = slice(0, 4)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("theirs", "how"), LOSSES)
def test_grpo_losses(theirs: str, how: str, beta: float) -> None:
    """Token-level surrogate in each aggregation, with tool tokens inside completions, and with k3 in the loss."""

    def ours(logps: Tensor) -> Tensor:
        found = clipped_surrogate(logps, OLD, ADVANTAGES, MASK, low=LOW, high=HIGH, level="token")
        return aggregate(found.losses + beta * kl.k3(logps, REFERENCE), MASK, how, **TOTALS)

    same_with_gradient(OLD + MOVE, lambda logps: trl_grpo(logps, theirs, ALL, beta=beta)[0], ours)


def test_grpo_shares_and_kl() -> None:
    """The share of tokens clipped and the mean k3 of a token are what TRL logs."""
    _, metrics = trl_grpo(OLD + MOVE, "grpo", ALL, beta=0.1)
    found = clipped_surrogate(OLD + MOVE, OLD, ADVANTAGES, MASK, low=LOW, high=HIGH, level="token")
    assert 0 < found.share.item() < 1
    assert found.share.item() == pytest.approx(metrics["clip_ratio/region_mean"][0])
    k3 = kl.per_completion(kl.k3(OLD + MOVE, REFERENCE), MASK).sum() / MASK.sum()
    assert k3.item() == pytest.approx(metrics["kl"][0])


def test_grpo_with_advantages_per_token() -> None:
    """A (b, t) tensor of advantages is taken token by token."""
    by_token = ADVANTAGES[:, None] * torch.linspace(-1, 1, 5).double()

    def ours(logps: Tensor) -> Tensor:
        found = clipped_surrogate(logps, OLD, by_token, MASK, low=LOW, high=HIGH, level="token")
        return aggregate(found.losses, MASK, "token_mean", **TOTALS)

    same_with_gradient(OLD + MOVE, lambda logps: trl_grpo(logps, "dapo", ALL, advantages=by_token)[0], ours)


@pytest.mark.parametrize(("theirs", "how"), LOSSES)
def test_grpo_in_micro_batches(theirs: str, how: str) -> None:
    """Two micro-batches accumulated there are the two parts added up here."""
    halves = slice(0, 2), slice(2, 4)

    def ours(logps: Tensor) -> Tensor:
        losses = []
        for rows in halves:
            found = clipped_surrogate(
                logps[rows], OLD[rows], ADVANTAGES[rows], MASK[rows], low=LOW, high=HIGH, level="token"
            )
            losses.append(aggregate(found.losses, MASK[rows], how, **TOTALS))
        return sum(losses)

    same_with_gradient(
        OLD + MOVE, lambda logps: sum(trl_grpo(logps, theirs, rows, parts=2)[0] for rows in halves), ours
    )


def test_one_update_a_batch_is_the_policy_gradient() -> None:
    """Before the policy has moved, Dr. GRPO has the gradient of the sequence-level surrogate that the RLOO loop uses."""
    here, there = OLD.clone().requires_grad_(), OLD.clone().requires_grad_()
    found = clipped_surrogate(here, OLD, ADVANTAGES, MASK, low=LOW, high=HIGH, level="sequence")
    aggregate(found.losses, MASK, "constant", completions=4, constant=20.0).backward()
    trl_grpo(there, "dr_grpo", ALL)[0].backward()
    assert torch.allclose(here.grad, there.grad, rtol=1e-9)
    assert there.grad.abs().sum() > 0
