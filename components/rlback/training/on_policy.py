"""Policy optimisation on the policy's own samples: RLOO, GRPO, Dr. GRPO, PPO and online DPO.

One step: sample k completions for each of n prompts (rollout.py), turn scores and KL into advantages (signals.py),
and update (objectives.py), once or over several epochs and minibatches. A method is its settings; the loop
is the same. With one update a step the policy that is updated is the policy that sampled: the ratio is 1, and in fp32 the
sampler's log-probabilities serve as the old ones without a second pass. In bf16 they are rounded unlike the update's, so
the update's own forward pass comes first and gives the old ones. That all these agree is checked on the first
update of every call, in production too, as are a KL of 0 from an equal reference and advantages that cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rlback.errors import ConfigError, DataError, TrainingDiverged
from rlback.maths import kl
from rlback.maths.masking import masked_mean
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, require_known
from rlback.models.sampler import require_prompts_fit, sample
from rlback.models.value_model import ValueModel
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import OnPolicy, PPOConfig
from rlback.training.batches import Tokens, permutation
from rlback.training.objectives import accumulate
from rlback.training.parallel import ALONE, Share
from rlback.training.rollout import Rollout, Sampler, collect
from rlback.training.scorers import Scorer
from rlback.training.signals import Signals, per_completion, signals
from rlback.training.state import StageState, tokens_digest
from rlback.training.updates import adam, apply_update, at_step, require_usable

#: Largest accepted |ratio - 1| of a token and |KL| of a token against an equal reference at the first update.
RATIO_TOLERANCE = 5e-3
#: Largest accepted mean over tokens of |log-prob in the update - log-prob in sampling|, in nats, where the two are of
#: different precisions. Rounding was seen to come to 0.016 on an untrained model of 25 M parameters and to 0.05 on a sharp
#: adapted one; a token read in the wrong place is off by about as much as the policy is unsure of it, a nat or more.
GAP_TOLERANCE = 0.2


@dataclass(frozen=True)
class StepRecord:
    """What one step sampled and did; b completions, those of a prompt side by side.

    `mask` (b, t) is True on the tokens the policy chose. `scores` are the scorer's, `rewards` are what was maximised,
    `advantages` (b,) what multiplied the log-probs (per token: their mean), `weights` their sizes, less the share of
    tokens that clipping took out of the updates. `kl`: nats per completion from the reference.
    """

    step: int
    prompts: tuple[Tokens, ...]
    completions: tuple[Tokens, ...]
    finished: tuple[bool, ...]
    mask: Tensor
    scores: Tensor
    rewards: Tensor
    advantages: Tensor
    weights: Tensor
    kl: Tensor
    kl_k3: float
    loss: float
    grad_norm: float
    beta: float
    samples_per_prompt: int


@dataclass(frozen=True)
class OptimiseResult:
    """`steps` were made; `proxy` and `kl_ref` are the means of the last rollout met.

    `start_state` is the digest of the whole training state before the first update: weights, moments, KL coefficient,
    pending rollouts. It names neither scorer nor prompts, so two rounds from one checkpoint have the same, and
    anything that leaked from a discarded round shows.
    """

    steps: int
    stopped: Literal["steps", "kl_budget"]
    proxy: float
    kl_ref: float
    start_state: str


def optimise(
    policy: Policy,
    reference: Policy,
    scorer: Scorer,
    prompts: Sequence[Tokens],
    config: OnPolicy,
    *,
    seed: int,
    value: ValueModel | None = None,
    sampler: Sampler = sample,
    sampler_identity: str = "",
    share: Share = ALONE,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
    on_checkpoint: Callable[[int, Policy], None] | None = None,
    observe: Callable[[StepRecord], None] | None = None,
) -> OptimiseResult:
    """Train `policy` in place on `scorer`'s scores, with a penalty on the KL from `reference`.

    `value` is trained beside it and needed by PPO alone. `sampler_identity` says what besides the policy writes into
    the completions (an environment), so that a saved state is not continued with another.

    Steps are numbered from 0; `on_checkpoint(done, policy)` is called after `done` steps. Called again with the same
    arguments after a kill, inside a rollout's updates too, the run ends in the same weights; `observe` and
    `on_checkpoint` are then called again for the steps since the last saved state, with equal values, so key what
    they store by step. Of several processes (`share`) each computes its part of every rollout and update, and the
    first one alone saves, reports and calls back.

    Raises DataError for a prompt that policy or reference has no room to answer, or with a token that the policy does not have.
    Raises ConfigError for a reference of another vocabulary, and TrainingDiverged, naming step and value, when a self-check of
    the first update fails, a score, log-probability, loss, gradient or weight is not finite, the policy writes nothing but end
    tokens, and with `on_kl_budget: fail` for a KL above the budget; the newest saved state stays as it was.
    """
    if not prompts:
        raise DataError("there are no prompts to optimise on", remedy="give at least one prompt")
    require_copy(policy, reference)
    require_known(policy.model, "prompt", prompts)
    # An environment may give a long prompt less than `max_new_tokens`; without one they all must fit.
    room = config.max_new_tokens if sampler is sample else 1
    require_prompts_fit(policy.model, prompts, room)
    require_prompts_fit(reference.model, prompts, room, "reference")
    if isinstance(config, PPOConfig) != (value is not None):
        raise ConfigError("a value model goes with method ppo, and ppo needs one")
    policy.digest = None  # these weights will be in no checkpoint
    for module in (policy.model, reference.model, scorer, value):
        if isinstance(module, nn.Module):
            module.eval()  # dropout off everywhere, or the ratio is not 1
    trained = nn.ModuleDict({"policy": policy.model} | ({"value": value} if value is not None else {}))
    optimiser = adam(_groups(policy, value, config), lr=config.lr, betas=config.betas, eps=1e-5)
    start_digest, reference_digest = weights_digest(policy.model), weights_digest(reference.model)
    identity = digest_of(
        [
            asdict(config),
            seed,
            tokens_digest(prompts),
            [weights_digest(trained), reference_digest, scorer.identity(), sampler_identity],
        ]
    )
    state = StageState(state_dir, identity, trained, optimiser, every_s=save_every_s, writes=share.rank == 0)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    start_state = state.digest({"beta": config.beta, "reference": reference_digest})
    done, kept = state.resume()
    pending = {name: tensor.to(policy.model.device) for name, tensor in state.pending.items()}
    memory = _Memory.of(kept, config)
    first = done
    updates_a_step = config.epochs * config.minibatches
    rollout: Rollout | None = None
    signal: Signals | None = None

    while done < config.steps * updates_a_step:
        step, part = divmod(done, updates_a_step)
        if part == 0:
            rollout = collect(
                policy, reference, scorer, prompts, config, seed=seed, step=step, sampler=sampler, share=share
            )
            values = None if value is None else value.over(rollout.prompts, rollout.completions, config.max_padded)
            pending = rollout.tensors() | ({} if values is None else {"values": values})
            pending["unclipped"] = torch.zeros(len(rollout.prompts), device=rollout.ids.device)
            memory = memory.begun()
        elif rollout is None:  # resumed inside a rollout's updates
            tensors = {k: v for k, v in pending.items() if k not in ("values", "unclipped")}
            rollout = Rollout.restored(prompts, step, config, seed, tensors)
        if part == 0 or signal is None:
            with at_step("policy optimisation", step):
                signal = signals(config, rollout, memory.beta, pending.get("values"))
            memory.proxy, memory.kl_ref = float(rollout.scores.mean()), float(signal.kl.mean())
        if done == first and part == 0:
            _check_sampling(rollout, step)
        if step == 0 and part == 0 and start_digest == reference_digest:
            _check_reference(rollout)
        if part == 0 and config.kl_budget is not None and memory.kl_ref > config.kl_budget:
            if config.on_kl_budget == "fail":
                raise TrainingDiverged(
                    f"policy optimisation: the KL from the reference at step {step} is {memory.kl_ref:.4g} nats a "
                    f"completion, above kl_budget {config.kl_budget:g}",
                    remedy="raise beta or kl_budget, lower the learning rate, or take what there is with on_kl_budget: stop",
                )
            return OptimiseResult(step, "kl_budget", memory.proxy, memory.kl_ref, start_state)

        rows = _rows(len(rollout.prompts), config, seed, step, part)
        took_part = torch.zeros_like(pending["unclipped"])
        loss, drift = accumulate(policy, value, rollout, signal, pending, rows, config, memory.beta, took_part, share)
        if done == first and part == 0 and not drift <= RATIO_TOLERANCE:
            raise TrainingDiverged(
                f"policy optimisation: at step {step} the update's log-probs are not those of sampling: "
                f"the largest |ratio - 1| of a token is {drift:.3g}, allowed is {RATIO_TOLERANCE:g}",
                remedy="sample and update with the same weights, precision and temperature",
            )
        (loss,) = share.add_up(parameters, [loss])
        share.add_up_tensor(took_part)
        pending["unclipped"] += took_part
        norm = apply_update(optimiser, clip=config.clip, factor=1.0, stage="policy optimisation", step=step, loss=loss)
        done += 1
        memory.loss += loss / updates_a_step
        memory.grad_norm = max(memory.grad_norm, norm)
        if done % updates_a_step == 0:
            due = on_checkpoint is not None and config.checkpoint_every > 0 and (step + 1) % config.checkpoint_every == 0
            if due or step + 1 == config.steps:
                require_usable(
                    policy, rollout.prompts, rollout.completions, config.precision, config.max_padded,
                    stage="policy optimisation", step=step,
                )  # fmt: skip
            if share.rank == 0:
                if observe is not None:
                    observe(_record(rollout, signal, pending, memory, config, step))
                if on_checkpoint is not None and due:
                    on_checkpoint(step + 1, policy)
                report(step + 1, config.steps, _metrics(rollout, signal, pending, memory, config))
            if config.kl_target is not None:
                memory.beta = kl.adapt(
                    memory.beta, memory.kl_ref, config.kl_target, config.kl_horizon, len(rollout.prompts)
                )
            pending = {}
        state.keep(done, memory.plain(), pending=pending, now=done == config.steps * updates_a_step)
    return OptimiseResult(config.steps, "steps", memory.proxy, memory.kl_ref, start_state)


def require_copy(policy: Policy, reference: Policy) -> None:
    """ConfigError for a reference that is the policy itself, or that reads its token ids as other tokens."""
    if reference.model is policy.model:
        raise ConfigError("the reference policy must be a copy, not the policy being trained")
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            "the reference policy has another vocabulary than the policy",
            remedy="take the checkpoint that the policy starts from, or another of its lineage",
        )


@dataclass
class _Memory:
    """The numbers that a step carries from one update to the next, and the KL coefficient from step to step."""

    beta: float
    proxy: float = 0.0
    kl_ref: float = 0.0
    loss: float = 0.0
    grad_norm: float = 0.0

    @classmethod
    def of(cls, kept: Mapping[str, float], config: OnPolicy) -> _Memory:
        return cls(**kept) if kept else cls(config.beta)

    def begun(self) -> _Memory:
        return _Memory(self.beta, self.proxy, self.kl_ref)

    def plain(self) -> dict[str, float]:
        return asdict(self)


def _groups(policy: Policy, value: ValueModel | None, config: OnPolicy) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = [{"params": [p for p in policy.model.parameters() if p.requires_grad]}]
    if isinstance(config, PPOConfig) and value is not None:
        groups.append({"params": list(value.parameters()), "lr": config.lr * config.value_lr_factor})
    return groups


def _rows(count: int, config: OnPolicy, seed: int, step: int, part: int) -> list[int]:
    """Which completions an update is made on; each comes once an epoch, in another order every time."""
    if config.epochs == config.minibatches == 1:
        return list(range(count))
    epoch, number = divmod(part, config.minibatches)
    order = permutation(count, seed_of(seed, "minibatches", step, epoch))
    return list(order[number :: config.minibatches])


def _check_sampling(rollout: Rollout, step: int) -> None:
    """What a token's two roundings may differ by at most depends on how sure the policy is; the mean is told from a fault."""
    gap = float(rollout.gap.mean())
    if not gap <= GAP_TOLERANCE:
        raise TrainingDiverged(
            f"policy optimisation: at step {step} the update's log-probs are not those of sampling: they are {gap:.3g} "
            f"nats a token apart, allowed is {GAP_TOLERANCE:g}",
            remedy="sample and update with the same weights and temperature; where that is so, train in fp32",
        )


def _check_reference(rollout: Rollout) -> None:
    largest = float((kl.k1(rollout.logps, rollout.reference_logps) * rollout.mask).abs().max())
    if not largest <= RATIO_TOLERANCE:
        raise TrainingDiverged(
            "policy optimisation: at step 0 the policy equals its reference, yet a token's KL is "
            f"{largest:.3g} nats",
            remedy="sample and score with the same precision and temperature",
        )


def _record(
    rollout: Rollout, signal: Signals, pending: Mapping[str, Tensor], memory: _Memory, config: OnPolicy, step: int
) -> StepRecord:
    advantages = per_completion(signal.advantages, rollout.mask)
    return StepRecord(
        step=step,
        prompts=tuple(rollout.prompts),
        completions=tuple(rollout.completions),
        finished=tuple(rollout.finished.tolist()),
        mask=rollout.mask,
        scores=rollout.scores,
        rewards=signal.rewards,
        advantages=advantages,
        weights=advantages.abs() * pending["unclipped"],
        kl=signal.kl,
        kl_k3=signal.kl_k3,
        loss=memory.loss,
        grad_norm=memory.grad_norm,
        beta=memory.beta,
        samples_per_prompt=config.samples_per_prompt,
    )


def _metrics(
    rollout: Rollout, signal: Signals, pending: Mapping[str, Tensor], memory: _Memory, config: OnPolicy
) -> dict[str, float]:
    return {
        "proxy": memory.proxy,
        "kl_ref": memory.kl_ref,
        "kl_k3": signal.kl_k3,
        "loss": memory.loss,
        "grad_norm": memory.grad_norm,
        "beta": memory.beta,
        # On the policy's own samples the mean of -log p estimates the entropy per token, in nats.
        "entropy": float(masked_mean(-rollout.logps, rollout.mask)),
        "unclipped": float(pending["unclipped"].mean()),
        "finished": float(rollout.finished.float().mean()),
    }
