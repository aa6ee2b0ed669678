"""Policy optimisation against a reward model: REINFORCE with a leave-one-out baseline (RLOO, 2402.14740).

One step: sample k completions for each of n prompts; reward = score - beta * KL, where score is the reward
model's standardised one and KL the sum over completion tokens of log pi - log pi_ref (k1, in the reward, so
without a gradient of its own); advantage = reward minus the mean reward of the prompt's other completions,
divided by the batch's standard deviation; one update on -mean_i A_i sum_t log pi(y_it) / length_normaliser.

With one update per batch the policy that is updated is the policy that sampled, so the importance ratio is
1 and the sampler's log-probabilities serve as the old ones; no second pass is made for them. That this holds
is checked on the first step of every call, in production too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rlback.errors import ConfigError, DataError, TrainingDiverged
from rlback.maths import advantages as adv
from rlback.maths import kl
from rlback.maths.losses import policy_gradient
from rlback.maths.masking import length_chunks
from rlback.models.policy import Policy, token_logps
from rlback.models.reward_model import RewardModel
from rlback.models.sampler import Samples, sample
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import RLOOConfig
from rlback.training.batches import Tokens, by_length, epoch_slice, total_lengths
from rlback.training.state import StageState, tokens_digest, weights_digest
from rlback.training.updates import adam, apply_update

#: Largest accepted |ratio - 1| of a token and |KL| of a token against an equal reference at the first step.
RATIO_TOLERANCE = 5e-3


@dataclass(frozen=True)
class StepRecord:
    """What one step sampled and did, n * k rows, those of a prompt side by side.

    `scores` are standardised, `rewards` are what was maximised, `advantages` what multiplied the log-probs
    (after scaling), `weights` their sizes, `kl` nats per completion from the reference.
    """

    step: int
    prompts: tuple[Tokens, ...]
    completions: tuple[Tokens, ...]
    finished: tuple[bool, ...]
    scores: Tensor
    rewards: Tensor
    advantages: Tensor
    weights: Tensor
    kl: Tensor
    kl_k3: float
    loss: float
    grad_norm: float
    samples_per_prompt: int


@dataclass(frozen=True)
class OptimiseResult:
    """`steps` updates were made; `proxy` and `kl_ref` are the means of the last batch met."""

    steps: int
    stopped: Literal["steps", "kl_budget"]
    proxy: float
    kl_ref: float


def optimise(
    policy: Policy,
    reference: Policy,
    reward_model: RewardModel,
    prompts: Sequence[Tokens],
    config: RLOOConfig,
    *,
    seed: int,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
    on_checkpoint: Callable[[int, Policy], None] | None = None,
    observe: Callable[[StepRecord], None] | None = None,
) -> OptimiseResult:
    """Train `policy` in place against `reward_model`, with a penalty on the KL from `reference`.

    Steps are numbered from 0; `on_checkpoint(done, policy)` is called after `done` updates. Called again with
    the same arguments after a kill, the run ends in the same weights; `observe` and `on_checkpoint` are then
    called again for the steps since the last saved state, with equal values, so key what they store by step.
    Raises TrainingDiverged when a self-check of the first step fails or a loss or gradient is not finite.
    """
    if not prompts:
        raise DataError("there are no prompts to optimise on", remedy="give at least one prompt")
    if reference.model is policy.model:
        raise ConfigError("the reference policy must be a copy, not the policy being trained")
    for module in (policy.model, reference.model, reward_model):
        module.eval()  # dropout off everywhere, or the ratio is not 1
    trainable = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = adam(trainable, lr=config.lr, betas=config.betas, eps=1e-5)
    start_digest, reference_digest = weights_digest(policy.model), weights_digest(reference.model)
    identity = digest_of(
        [
            "rloo",
            asdict(config),
            seed,
            tokens_digest(prompts),
            [start_digest, reference_digest, weights_digest(reward_model)],
        ]
    )
    state = StageState(state_dir, identity, policy.model, optimiser, every_s=save_every_s)
    first, kept = state.resume()
    proxy, kl_mean = kept.get("proxy", 0.0), kept.get("kl_ref", 0.0)

    for step in range(first, config.steps):
        batch = _rollout(policy, reference, reward_model, prompts, config, seed, step)
        proxy, kl_mean = float(batch.scores.mean()), float(batch.kl.mean())
        if step == 0 and start_digest == reference_digest:
            _check_reference(batch)
        if config.kl_budget is not None and kl_mean > config.kl_budget:
            state.keep(step, {"proxy": proxy, "kl_ref": kl_mean}, now=True)
            return OptimiseResult(step, "kl_budget", proxy, kl_mean)
        loss, drift = _accumulate(policy, batch, config)
        if step == first and not drift <= RATIO_TOLERANCE:
            raise TrainingDiverged(
                f"policy optimisation: at step {step} the update's log-probs are not those of sampling: "
                f"the largest |ratio - 1| of a token is {drift:.3g}, allowed is {RATIO_TOLERANCE:g}",
                remedy="sample and update with the same weights, precision and temperature",
            )
        norm = apply_update(
            optimiser, clip=config.clip, factor=1.0, stage="policy optimisation", step=step, loss=loss
        )
        if observe is not None:
            observe(_record(batch, config, step, loss, norm))
        done = step + 1
        if on_checkpoint and config.checkpoint_every and done % config.checkpoint_every == 0:
            on_checkpoint(done, policy)
        state.keep(done, {"proxy": proxy, "kl_ref": kl_mean}, now=done == config.steps)
        metrics = {"proxy": proxy, "kl_ref": kl_mean, "kl_k3": batch.kl_k3, "loss": loss, "grad_norm": norm}
        report(done, config.steps, metrics)
    return OptimiseResult(config.steps, "steps", proxy, kl_mean)


@dataclass(frozen=True)
class _Batch:
    prompts: list[Tokens]
    completions: list[tuple[int, ...]]
    samples: Samples
    scores: Tensor
    kl: Tensor
    kl_k3: float
    largest_token_kl: float
    rewards: Tensor
    advantages: Tensor


@torch.no_grad()
def _rollout(
    policy: Policy,
    reference: Policy,
    reward_model: RewardModel,
    prompts: Sequence[Tokens],
    config: RLOOConfig,
    seed: int,
    step: int,
) -> _Batch:
    """Sample, score and turn scores into advantages. Ids go to the reward model as they were sampled."""
    chosen = epoch_slice(len(prompts), config.prompts_per_step, seed_of(seed, "rloo order"), step)
    samples = sample(
        policy,
        [prompts[i] for i in chosen],
        max_new_tokens=config.max_new_tokens,
        seed=seed_of(seed, "rloo samples", step),
        temperature=config.temperature,
        samples_per_prompt=config.samples_per_prompt,
    )
    k = config.samples_per_prompt
    rows = [prompts[i] for i in chosen for _ in range(k)]
    completions = samples.completions()
    scores = by_length(
        lambda part: reward_model.score([rows[i] for i in part], [completions[i] for i in part]),
        total_lengths(rows, completions),
        config.max_padded,
    )
    reference_logps = _reference_logps(reference, rows, completions, samples.logps, config)
    token_kl = kl.k1(samples.logps, reference_logps)
    completion_kl = kl.per_completion(token_kl, samples.mask)
    k3 = kl.per_completion(kl.k3(samples.logps, reference_logps), samples.mask)

    unfinished = (~samples.finished).float()
    rewards = scores - config.beta * completion_kl - config.no_end_penalty * unfinished
    raw = adv.leave_one_out(rewards.view(-1, k))
    _check_groups(raw, step)
    scaled = adv.standardise(raw) if config.advantage_std else raw
    return _Batch(
        rows,
        completions,
        samples,
        scores,
        completion_kl,
        float(k3.mean()),
        float((token_kl * samples.mask).abs().max()),
        rewards,
        scaled.flatten(),
    )


def _reference_logps(
    reference: Policy,
    rows: list[Tokens],
    completions: list[tuple[int, ...]],
    like: Tensor,
    config: RLOOConfig,
) -> Tensor:
    """Log-probs of the sampled tokens under the reference at the sampling temperature, laid out as `like`."""
    out = torch.zeros_like(like)
    pad = reference.tokenizer.pad_token_id
    for part in length_chunks(total_lengths(rows, completions), config.max_padded):
        part_rows, part_completions = [rows[i] for i in part], [completions[i] for i in part]
        logps, _ = token_logps(reference.model, part_rows, part_completions, pad, config.temperature)
        out[torch.tensor(part, device=out.device), : logps.shape[1]] = logps.to(out.dtype)
    return out


def _accumulate(policy: Policy, batch: _Batch, config: RLOOConfig) -> tuple[float, float]:
    """Add up the batch's gradient over length-sorted parts; returns the loss and the largest |ratio - 1|."""
    total, drift = 0.0, 0.0
    pad = policy.tokenizer.pad_token_id
    for part in length_chunks(total_lengths(batch.prompts, batch.completions), config.max_padded):
        index = torch.tensor(part, device=batch.advantages.device)
        logps, mask = token_logps(
            policy.model,
            [batch.prompts[i] for i in part],
            [batch.completions[i] for i in part],
            pad,
            config.temperature,
        )
        loss = policy_gradient(
            logps,
            mask,
            batch.advantages[index],
            length_normaliser=config.length_normaliser,
            completions=len(batch.prompts),
        )
        loss.backward()
        total += float(loss.detach())
        old = batch.samples.logps[index, : logps.shape[1]]
        ratio_error = torch.expm1(logps.detach() - old).abs() * mask
        drift = max(drift, float(ratio_error.max()))
    return total, drift


def _check_groups(raw: Tensor, step: int) -> None:
    size = max(1.0, float(raw.abs().max()))
    worst = float(raw.sum(-1).abs().max())
    if not worst <= 1e-4 * size or not math.isfinite(size):
        raise TrainingDiverged(
            f"policy optimisation: the advantages of a prompt's completions sum to {worst:.3g}, not to 0, "
            f"at step {step}",
            remedy="check the reward model's scores for values that are not finite",
        )


def _check_reference(batch: _Batch) -> None:
    if not batch.largest_token_kl <= RATIO_TOLERANCE:
        raise TrainingDiverged(
            "policy optimisation: at step 0 the policy equals its reference, yet a token's KL is "
            f"{batch.largest_token_kl:.3g} nats",
            remedy="sample and score with the same precision and temperature",
        )


def _record(batch: _Batch, config: RLOOConfig, step: int, loss: float, norm: float) -> StepRecord:
    return StepRecord(
        step=step,
        prompts=tuple(batch.prompts),
        completions=tuple(batch.completions),
        finished=tuple(batch.samples.finished.tolist()),
        scores=batch.scores,
        rewards=batch.rewards,
        advantages=batch.advantages,
        weights=batch.advantages.abs(),
        kl=batch.kl,
        kl_k3=batch.kl_k3,
        loss=loss,
        grad_norm=norm,
        samples_per_prompt=config.samples_per_prompt,
    )
