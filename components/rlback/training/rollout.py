"""One rollout: prompts, what the policy wrote, and everything a loss needs to know of the moment it was written.

Every on-policy method takes its samples, its KL and its scores from here, so that methods differ in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from rlback.errors import ConfigError, TrainingDiverged
from rlback.models.batching import in_parts
from rlback.models.policy import Policy, token_logps
from rlback.models.sampler import Samples, sample
from rlback.records import seed_of
from rlback.settings import OnlineDPOConfig, OnPolicy, Precision
from rlback.training.batches import Tokens, epoch_slice
from rlback.training.parallel import ALONE, Share
from rlback.training.scorers import Scorer
from rlback.training.updates import at_step, precision

#: How many parts of a step keep their activations for its one update. The passes of further parts are made twice: what a
#: batch takes up in memory must not grow with it.
HELD_PARTS = 2


class Sampler(Protocol):
    """Draws completions; `models.sampler.sample`, or episodes with an environment that answers between turns."""

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Tokens],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float,
        samples_per_prompt: int,
        first_row: int = 0,
        precision: Precision = "fp32",
    ) -> Samples:
        """`first_row`: how many rows other processes draw before these; random numbers are per row of all."""


@dataclass(frozen=True)
class Part:
    """Completions that go through the policy in one pass: their numbers in the rollout, all of them this process's.

    logps: (n, t) nats, t the longest of them, with the graph of the pass that they are from, for a loss to be
    differentiated through it once; None where the update has to make the pass itself.
    """

    rows: list[int]
    logps: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """b completions, those of one prompt side by side; t is the longest one.

    prompts: one per completion. ids: (b, t) padded. lengths: (b,). mask: (b, t) True on the tokens the policy chose.
    logps, reference_logps: (b, t) nats under the sampling temperature, 0 where the mask is. finished: (b,) the end
    token was sampled. scores: (b,) as the scorer gave them, before any penalty. gap: (b,) mean of |logps - the sampler's|
    over a completion's tokens in nats: what the two precisions' rounding comes to, 0 where logps are the sampler's.
    parts: those of a step's only update where its log-probs were computed ahead of it, else None.
    """

    prompts: list[Tokens]
    ids: Tensor
    lengths: Tensor
    mask: Tensor
    logps: Tensor
    reference_logps: Tensor
    finished: Tensor
    scores: Tensor
    gap: Tensor
    parts: tuple[Part, ...] | None = None

    @cached_property
    def completions(self) -> list[tuple[int, ...]]:
        """The token ids of each completion, padding left out."""
        return [tuple(row[:n]) for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """All but prompts and parts, by name: what a saved training state keeps of a rollout that is not used up."""
        names = ("ids", "lengths", "mask", "logps", "reference_logps", "finished", "scores", "gap")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(
        cls, prompts: Sequence[Tokens], step: int, config: OnPolicy, seed: int, tensors: Mapping[str, Tensor]
    ) -> Rollout:
        """The rollout of `step` from its saved tensors; which prompts it had follows from the seed."""
        return cls(_prompts_of(prompts, config, seed, step), **tensors)


def _prompts_of(prompts: Sequence[Tokens], config: OnPolicy, seed: int, step: int) -> list[Tokens]:
    chosen = epoch_slice(len(prompts), config.prompts_per_step, seed_of(seed, "prompt order"), step)
    return [prompts[i] for i in chosen for _ in range(config.samples_per_prompt)]


@torch.no_grad()
def collect(
    policy: Policy,
    reference: Policy,
    scorer: Scorer,
    prompts: Sequence[Tokens],
    config: OnPolicy,
    *,
    seed: int,
    step: int,
    sampler: Sampler = sample,
    share: Share = ALONE,
) -> Rollout:
    """Sample and score. Ids go to the scorer and the reference exactly as they were sampled.

    Of several processes each does this for its own prompts, and all get the whole rollout.

    Raises ConfigError for scores that are not one a completion. Raises TrainingDiverged, naming the step, for a score or
    log-probability that is not finite, for a graded scorer that gives different
    completions one and the same score, and for a policy that writes nothing.
    """
    everyone = _prompts_of(prompts, config, seed, step)
    mine = share.block(config.prompts_per_step)
    first_row = mine.start * config.samples_per_prompt
    rows = everyone[first_row : mine.stop * config.samples_per_prompt]
    drawn = sampler(
        policy,
        rows[:: config.samples_per_prompt],
        max_new_tokens=config.max_new_tokens,
        seed=seed_of(seed, "samples", step),
        temperature=config.temperature,
        samples_per_prompt=config.samples_per_prompt,
        first_row=first_row,
        precision=config.precision,
    )
    completions = drawn.completions()
    _check_written(drawn, policy.tokenizer.eos_token_id, step)
    with at_step("policy optimisation", step), precision(config.precision, policy.model.device):
        scores = scorer.score(rows, completions).to(drawn.logps)
    _check_scores(scores, completions, scorer, step)
    lengths = torch.tensor([len(c) for c in completions], device=drawn.ids.device)
    reference_logps = _reference_logps(reference, rows, completions, drawn, config)
    logps, parts = _policy_logps(policy, rows, completions, drawn, config, first_row)
    for name, found in (("policy", drawn.logps), ("policy", logps), ("reference", reference_logps)):
        _check_logps(found, name, step)
    gap = (logps - drawn.logps).abs().sum(-1) / drawn.mask.sum(-1).clamp(min=1)
    width = max(share.all_ints(drawn.ids.shape[1]))
    pad = policy.tokenizer.pad_token_id
    return Rollout(
        everyone,
        share.gather(drawn.ids, width, pad),
        share.gather(lengths),
        share.gather(drawn.mask, width),
        share.gather(logps, width),
        share.gather(reference_logps, width),
        share.gather(drawn.finished),
        share.gather(scores),
        share.gather(gap),
        parts,
    )


def _reference_logps(
    reference: Policy, rows: list[Tokens], completions: list[tuple[int, ...]], drawn: Samples, config: OnPolicy
) -> Tensor:
    """(b, t), 0 where the policy did not choose."""
    logps, _ = _passes(reference, rows, completions, drawn.logps, config)
    return logps * drawn.mask


def _policy_logps(
    policy: Policy,
    rows: list[Tokens],
    completions: list[tuple[int, ...]],
    drawn: Samples,
    config: OnPolicy,
    first_row: int,
) -> tuple[Tensor, tuple[Part, ...] | None]:
    """The old log-probs, laid out as the reference's, and the parts of the step's only update where they are its own."""
    if config.precision == "fp32":
        return drawn.logps, None
    # Ratios and KL are differences of log-probs: both sides must carry the same rounding.
    ahead = _one_pass_update(config)
    logps, parts = _passes(policy, rows, completions, drawn.logps, config, held=HELD_PARTS if ahead else 0)
    numbered = tuple(Part([first_row + i for i in part.rows], part.logps) for part in parts)
    return logps * drawn.mask, numbered if ahead else None


def _one_pass_update(config: OnPolicy) -> bool:
    """Whether a step's one update passes every completion through the policy, as the log-probs before it do.

    Online DPO passes only those it chose, pair by pair.
    """
    return config.epochs * config.minibatches == 1 and not isinstance(config, OnlineDPOConfig)


def _passes(
    policy: Policy,
    rows: list[Tokens],
    completions: list[tuple[int, ...]],
    like: Tensor,
    config: OnPolicy,
    held: int = 0,
) -> tuple[Tensor, list[Part]]:
    """Log-probs of all tokens under `policy` at the sampling temperature, laid out as `like`, and the parts of the pass.

    The first `held` parts keep their graphs.
    """
    out = torch.zeros_like(like)
    pad = policy.tokenizer.pad_token_id
    parts: list[Part] = []
    for part in in_parts(rows, completions, config.max_padded):
        part_rows, part_completions = [rows[i] for i in part], [completions[i] for i in part]
        keep = len(parts) < held
        with torch.set_grad_enabled(keep), precision(config.precision, policy.model.device):
            logps, _ = token_logps(policy.model, part_rows, part_completions, pad, config.temperature)
        out[torch.tensor(part, device=out.device), : logps.shape[1]] = logps.detach().to(out.dtype)
        parts.append(Part(part, logps if keep else None))
    return out, parts


def _check_written(drawn: Samples, end: int, step: int) -> None:
    """Few completions may all be empty by chance; those of a policy that is all but sure of the end token are not."""
    if drawn.ids.shape[1] == 1 and bool((drawn.ids == end).all()) and float(drawn.logps.min()) > math.log(0.99):
        raise TrainingDiverged(
            f"policy optimisation: all {len(drawn.ids)} completions at step {step} are empty: the policy ends at once, with "
            f"probability {math.exp(float(drawn.logps.min())):.4f} or more",
            remedy="go back to the last good checkpoint; reward something that an empty completion does not have",
        )


def _check_logps(logps: Tensor, name: str, step: int) -> None:
    if not bool(logps.isfinite().all()):
        row = int((~logps.isfinite()).nonzero()[0, 0])
        raise TrainingDiverged(
            f"policy optimisation: a log-probability of completion {row} at step {step} under the {name} is not finite",
            remedy=f"look at the {name}'s weights; go back to the last good checkpoint",
        )


def _check_scores(scores: Tensor, completions: list[tuple[int, ...]], scorer: Scorer, step: int) -> None:
    if scores.shape != (len(completions),):
        raise ConfigError(
            f"policy optimisation: at step {step} scores have the shape {tuple(scores.shape)}, not ({len(completions)},)",
            remedy=f"{type(scorer).__name__}.score has to give one number a completion",
        )
    if not bool(scores.isfinite().all()):
        row = int((~scores.isfinite()).nonzero()[0])
        raise TrainingDiverged(
            f"policy optimisation: the score of completion {row} at step {step} is {float(scores[row])}",
            remedy="fit the reward model again with a lower learning rate",
        )
    if not math.isfinite(float(scores.abs().sum())):
        largest = float(scores.abs().max())
        raise TrainingDiverged(
            f"policy optimisation: the scores at step {step} add up to more than fp32 holds; one is {largest:.3g}",
            remedy="scale the scores down",
        )
    if scorer.graded and len(set(completions)) > 1 and float(scores.max() - scores.min()) == 0:
        raise TrainingDiverged(
            f"policy optimisation: all {len(scores)} completions at step {step} have the score {float(scores[0]):g}, "
            "different as they are: the reward model has collapsed",
            remedy="fit it again on more labels or with a lower learning rate",
        )
