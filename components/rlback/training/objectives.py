"""What an update descends on: the loss of a rollout's completions, its gradient added up part by part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlback.maths import kl
from rlback.maths.losses import aggregate, clipped_surrogate, dpo, ipo, value_loss
from rlback.maths.masking import length_chunks, masked_sum
from rlback.models.batching import in_parts
from rlback.models.policy import Policy, token_logps
from rlback.models.value_model import ValueModel
from rlback.settings import OnlineDPOConfig, OnPolicy, PPOConfig
from rlback.training.parallel import Share
from rlback.training.rollout import Part, Rollout
from rlback.training.signals import Signals, objective_of, per_completion
from rlback.training.updates import precision


def accumulate(
    policy: Policy,
    value: ValueModel | None,
    rollout: Rollout,
    signal: Signals,
    pending: dict[str, Tensor],
    rows: list[int],
    config: OnPolicy,
    beta: float,
    took_part: Tensor,
    share: Share,
) -> tuple[float, float]:
    """Add up the gradient of the completions `rows`; returns the loss and the largest |ratio - 1| of a token.

    `took_part` (b,) gathers the share of each completion that clipping let through, over the epochs. Of several
    processes each adds up its own part. The cut into parts of `max_padded` tokens changes nothing but rounding: every sum
    is divided by the totals of all `rows`. Where the rollout has parts of its own they are those of all `rows`, and the
    passes whose graphs they hold are not made again.
    """
    if isinstance(config, OnlineDPOConfig):
        return _accumulate_pairs(policy, rollout, signal, config, took_part, share)
    total, drift = 0.0, 0.0
    pad, completions = policy.tokenizer.pad_token_id, rollout.completions
    level, how, constant = objective_of(config)
    sizes = {"tokens": float(rollout.mask[rows].sum()), "completions": len(rows), "constant": constant}
    for part in _parts(rollout, share.of(rows), config) if rollout.parts is None else rollout.parts:
        index = torch.tensor(part.rows, device=rollout.ids.device)
        prompts, texts = [rollout.prompts[i] for i in part.rows], [completions[i] for i in part.rows]
        logps = part.logps
        if logps is None:
            with precision(config.precision, policy.model.device):
                logps, _ = token_logps(policy.model, prompts, texts, pad, config.temperature)
        width = logps.shape[1]
        mask, old = rollout.mask[index, :width], rollout.logps[index, :width]
        advantages = signal.advantages[index] if signal.advantages.dim() == 1 else signal.advantages[index, :width]
        surrogate = clipped_surrogate(
            logps, old, advantages, mask, low=config.ratio_low, high=config.ratio_high, level=level
        )
        loss = aggregate(surrogate.losses, mask, how, **sizes)
        if config.kl_in == "loss" and beta:
            estimate = kl.k2 if config.kl_loss == "k2" else kl.k3
            loss = loss + beta * aggregate(estimate(logps, rollout.reference_logps[index, :width]), mask, how, **sizes)
        if isinstance(config, PPOConfig):
            assert value is not None
            assert signal.returns is not None
            with precision(config.precision, policy.model.device):
                estimates = value(prompts, texts)
            fit = value_loss(
                estimates, pending["values"][index, :width], signal.returns[index, :width], mask, clip=config.value_clip
            )
            loss = loss + config.value_coefficient * aggregate(fit.losses, mask, how, **sizes)
        loss.backward()
        total += float(loss.detach())
        took_part[index] += _unclipped(surrogate.clipped, mask) / config.epochs
        drift = max(drift, float((torch.expm1(logps.detach() - old).abs() * mask).max()))
    return total, drift


def _parts(rollout: Rollout, rows: Sequence[int], config: OnPolicy) -> list[Part]:
    """The completions `rows` in parts of at most `max_padded` tokens."""
    prompts, completions = [rollout.prompts[i] for i in rows], [rollout.completions[i] for i in rows]
    return [Part([rows[i] for i in part]) for part in in_parts(prompts, completions, config.max_padded)]


def _accumulate_pairs(
    policy: Policy, rollout: Rollout, signal: Signals, config: OnlineDPOConfig, took_part: Tensor, share: Share
) -> tuple[float, float]:
    """Online DPO: the chosen (advantage 1) against the rejected (-1) completion of every prompt that has both."""
    chosen = (signal.advantages > 0).nonzero()[:, 0].tolist()
    rejected = (signal.advantages < 0).nonzero()[:, 0].tolist()
    total, drift = 0.0, 0.0
    if not chosen:
        # Nothing to prefer: a zero gradient, so that the optimiser still makes its step.
        for parameter in policy.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        return total, drift
    pairs, completions = len(chosen), rollout.completions
    chosen, rejected = share.of(chosen), share.of(rejected)
    longer = [
        max(len(rollout.prompts[i]) + len(completions[i]) for i in pair) for pair in zip(chosen, rejected, strict=True)
    ]
    loss_of = dpo if config.loss == "dpo" else ipo
    for part in length_chunks(longer, max(1, config.max_padded // 2)):
        rows = [chosen[i] for i in part] + [rejected[i] for i in part]
        index = torch.tensor(rows, device=rollout.ids.device)
        prompts, texts = [rollout.prompts[i] for i in rows], [completions[i] for i in rows]
        with precision(config.precision, policy.model.device):
            logps, _ = token_logps(policy.model, prompts, texts, policy.tokenizer.pad_token_id, config.temperature)
        width = logps.shape[1]
        mask, old = rollout.mask[index, :width], rollout.logps[index, :width]
        sums, reference = masked_sum(logps, mask), masked_sum(rollout.reference_logps[index, :width], mask)
        n = len(part)
        found = loss_of(sums[:n], sums[n:], reference[:n], reference[n:], beta=config.beta)
        loss = found.losses.sum() / pairs
        loss.backward()
        total += float(loss.detach())
        took_part[index] += 1.0
        drift = max(drift, float((torch.expm1(logps.detach() - old).abs() * mask).max()))
    return total, drift


def _unclipped(clipped: Tensor, mask: Tensor) -> Tensor:
    """Share of each completion that took part in an update (b,)."""
    if clipped.dim() == 1:
        return 1.0 - clipped.float()
    return per_completion(1.0 - clipped.float(), mask)
