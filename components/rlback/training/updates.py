"""One optimiser step, the same way in every loop: clip, check, step; and the learning-rate schedule."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from rlback.errors import ConfigError, TrainingDiverged
from rlback.models.batching import in_parts
from rlback.models.policy import Policy, token_logps
from rlback.settings import Precision
from rlback.training.batches import Tokens


def adam(
    groups: list[dict[str, object]] | list[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float = 0.0,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW in torch's fused form; with weight decay 0 it is Adam."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups: matrices with weight decay; vectors (norms, biases) without."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def warmup_cosine(step: int, *, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate at `step` (from 0): linear over `warmup`, then half a cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def apply_update(
    optimiser: torch.optim.Optimizer, *, clip: float, factor: float, stage: str, step: int, loss: float
) -> float:
    """Clip the gradient to the norm `clip`, step with `factor` times each group's base rate, clear it.

    Returns the norm before clipping. TrainingDiverged, and no step, when the loss or the norm is not finite; also when the
    step leaves weights whose norm is not finite: what was saved before it is the last good state.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, clip))
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"{stage}: the {name} at step {step} is {value}",
                remedy="lower the learning rate, or train in fp32",
            )
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    # Not finite where a weight is not (or is beyond 1e19); the largest weight itself takes fifteen times as long to find.
    size = float(nn.utils.get_total_norm(parameters))
    if not math.isfinite(size):
        raise TrainingDiverged(
            f"{stage}: the update at step {step} leaves weights whose norm is {size}",
            remedy="lower the learning rate or the weight decay",
        )
    return norm


@torch.no_grad()
def require_usable(
    policy: Policy, prompts: Sequence[Tokens], completions: Sequence[Tokens], kind: Precision, most: int, *, stage: str, step: int
) -> None:
    """TrainingDiverged where something that the update at `step` was made on has no finite log-probability after it.

    Weights can be finite and too large to compute with; what is left after a last update must not be such a policy. `most`:
    tokens of a pass.
    """
    for part in in_parts(prompts, completions, most):
        with precision(kind, policy.model.device):
            rows = [prompts[i] for i in part], [completions[i] for i in part]
            logps, _ = token_logps(policy.model, *rows, policy.tokenizer.pad_token_id)
        if not bool(logps.isfinite().all()):
            raise TrainingDiverged(
                f"{stage}: after the update at step {step} a log-probability is not finite",
                remedy="lower the learning rate or the weight decay",
            )


@contextlib.contextmanager
def at_step(stage: str, step: int) -> Iterator[None]:
    """Names stage and step in a TrainingDiverged of something that knows neither."""
    try:
        yield
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{stage}, step {step}: {error.message}", remedy=error.remedy) from error


@contextlib.contextmanager
def precision(kind: Precision, device: torch.device) -> Iterator[None]:
    """Run the forward pass in fp32, or under bf16 autocast with fp32 master weights.

    Raises ConfigError for `auto`, which is for whoever starts a training to settle (training/precisions.py).
    """
    if kind == "auto":
        raise ConfigError("precision: auto is not settled", remedy="train with fp32 or bf16, or ask faster_precision which")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=kind == "bf16"):
        yield
