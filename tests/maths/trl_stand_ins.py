"""Fixed tensors, and stand-ins that let TRL's trainers compute on them.

TRL keeps its losses inside its trainers, so the trainers' own loss and advantage methods are called unbound, with a
`self` that holds the settings the method reads and a model that answers with given log-probs. Nothing of TRL's
arithmetic is written down here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

# Four completions of 5, 3, 4 and 2 tokens; in MASK the environment wrote the middle ones of the first and third.
PADDING = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
TOOLS = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
MASK = PADDING * TOOLS
OLD = -torch.tensor(
    [[0.5, 1.0, 2.0, 0.1, 0.7], [1.5, 0.2, 0.9, 0, 0], [0.3, 0.3, 2.5, 1.1, 0], [0.6, 1.9, 0, 0, 0]]
).double()
#: The move away from OLD puts ratios on both sides of the clip range, for either sign of the advantages.
MOVE = torch.tensor(
    [[0.4, 0.1, -0.3, -0.5, 0.05], [0.3, -0.6, 0.1, 0, 0], [-0.4, 0.02, 0.9, 0.5, 0], [-0.1, -0.3, 0, 0, 0]]
).double()
REFERENCE = OLD + MOVE.roll(1, 0) / 2
ADVANTAGES = torch.tensor([1.2, -0.7, 0.4, -0.9]).double()
#: The policy that moved from OLD; padded log-probs are 0.
NEW = (OLD + MOVE) * PADDING


def same_with_gradient(start: Tensor, theirs: Callable[[Tensor], Tensor], ours: Callable[[Tensor], Tensor]) -> None:
    """Both functions of `start` have one value and one gradient."""
    here, there = start.clone().requires_grad_(), start.clone().requires_grad_()
    found, expected = ours(here), theirs(there)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(here.grad, there.grad, rtol=1e-9, atol=1e-12)
    assert there.grad.abs().sum() > 0


def unchanged(tensor: Tensor, **_: Any) -> Tensor:
    return tensor


class FixedModel:
    """A model in training mode whose log-probs of the completion tokens are given, (b, t); no logits behind them."""

    training = True
    is_gradient_checkpointing = False

    def __init__(self, logps: Tensor) -> None:
        self.logps = logps

    def __call__(self, **_: Any) -> SimpleNamespace:
        nothing = torch.zeros_like(self.logps.detach())
        return SimpleNamespace(
            log_probs=self.logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def trainer_self(kind: type, model: Any, **settings: Any) -> SimpleNamespace:
    """A `self` for methods of the trainer class `kind`: one process, a fixed model, and the settings."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        is_main_process=True,
        gather=unchanged,
        gather_for_metrics=unchanged,
        reduce=unchanged,
        autocast=nullcontext,
    )
    made = SimpleNamespace(
        accelerator=accelerator,
        model=model,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    if hasattr(kind, "_get_per_token_logps_and_entropies"):
        made._get_per_token_logps_and_entropies = MethodType(kind._get_per_token_logps_and_entropies, made)
    return made


def sampling_self(kind: type, model: FixedModel, mask: Tensor, scores: Tensor, **settings: Any) -> SimpleNamespace:
    """A `self` for `_generate_and_score_completions`: completions of the mask's lengths (b, t), scores (b,)."""
    rows = [[7] * int(n) for n in mask.sum(-1)]
    made = trainer_self(
        kind,
        model,
        args=SimpleNamespace(
            per_device_train_batch_size=len(rows),
            gradient_checkpointing_kwargs=None,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
        ),
        _tokenizer=SimpleNamespace(pad_token_id=0),
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        chat_template_kwargs={},
        reward_weights=torch.ones(1, dtype=scores.dtype),
        reward_func_names=["score"],
        reward_funcs=[None],
        log_multimodal=False,
        _logs={"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": [], "extra": {}},
        _pending_extra_logs={},
        _pending_metrics={},
        _calculate_rewards=lambda *_: scores[:, None],
        **settings,
    )
    prompts, texts = [[5, 6]] * len(rows), [""] * len(rows)
    if kind.__name__ == "GRPOTrainer":
        made._generate = lambda _: (prompts, rows, None, texts, None, {}, None, None)
    else:
        made._generate = lambda _: (prompts, rows, texts)
    return made
