"""Direct preference optimisation on given pairs: the policy is trained on preferences without a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from rlback.errors import DataError, TrainingDiverged
from rlback.maths.losses import DirectLosses, dpo, ipo
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, token_logps
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import DPOConfig
from rlback.training.batches import Tokens, epoch_slice, over_parts
from rlback.training.on_policy import RATIO_TOLERANCE, require_copy
from rlback.training.parallel import ALONE, Share
from rlback.training.reward import TokenPair, check_pairs
from rlback.training.state import StageState, tokens_digest
from rlback.training.updates import adam, apply_update, decay_groups, precision, require_usable, warmup_cosine

#: (prompts, completions) -> (b, t) True on the tokens that the policy chose
OwnTokens = Callable[[Sequence[Tokens], Sequence[Tokens]], Tensor]


def fit_dpo(
    policy: Policy,
    reference: Policy,
    pairs: Sequence[TokenPair],
    config: DPOConfig,
    *,
    seed: int,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
    on_checkpoint: Callable[[int, Policy], None] | None = None,
    own: OwnTokens | None = None,
    share: Share = ALONE,
) -> dict[str, float]:
    """Train `policy` in place; returns the last epoch's `loss`, `accuracy` (share of pairs whose implicit reward is
    higher for the chosen side) and `margin` (mean difference of implicit rewards).

    `own` says which tokens of completions the policy chose, where something else wrote into them too; without it all.
    The reference's log-probabilities are computed once, before the first step. Resumes exactly, as every loop does.
    Raises ConfigError for a reference that is no copy of another policy with this vocabulary, DataError on no pairs, an empty
    side or a token that the policy does not have, TrainingDiverged on a loss or gradient that is not finite or when
    an equal reference does not give log-ratios of 0 at the first step.
    """
    check_pairs(pairs, policy.model)
    if config.loss == "ipo" and any(pair.target != 1.0 for pair in pairs):
        raise DataError("ipo has no use for ties or shares of votes", remedy="leave such pairs out, or use loss: dpo")
    require_copy(policy, reference)
    policy.digest = None  # these weights will be in no checkpoint
    policy.model.eval()
    reference.model.eval()
    steps = max(1, math.ceil(config.epochs * len(pairs) / config.batch))
    optimiser = adam(decay_groups(policy.model, config.weight_decay), lr=config.lr, betas=config.betas)
    data = tokens_digest(ids for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected))
    start, reference_digest = weights_digest(policy.model), weights_digest(reference.model)
    said = [[pair.weight, pair.target] for pair in pairs]
    identity = digest_of(["dpo", asdict(config), seed, data, said, start, reference_digest])
    state = StageState(state_dir, identity, policy.model, optimiser, every_s=save_every_s, writes=share.rank == 0)
    first, kept = state.resume()
    history: list[list[float]] = kept.get("history", [])
    per_epoch = max(1, len(pairs) // config.batch)
    with torch.no_grad():
        expected = _sums(reference, pairs, range(len(pairs)), config, own)

    for step in range(first, steps):
        batch = epoch_slice(len(pairs), config.batch, seed_of(seed, "dpo order"), step)
        mine = share.of(batch)
        chosen, rejected = _sums(policy, pairs, mine, config, own)
        reference_chosen, reference_rejected = (side[mine] for side in expected)
        if step == 0 and start == reference_digest and config.precision == "fp32":
            _check_start(chosen - reference_chosen, rejected - reference_rejected)
        found = _losses(chosen, rejected, reference_chosen, reference_rejected, [pairs[i] for i in mine], config)
        # A batch in which every pair has weight 0 teaches nothing.
        loss = found.losses.sum() / (sum(pairs[i].weight for i in batch) or 1.0)
        loss.backward()
        margins = found.chosen_rewards - found.rejected_rewards
        sums = [float(loss.detach()), float((margins > 0).sum()) / len(batch), float(margins.sum()) / len(batch)]
        row = share.add_up(policy.model.parameters(), sums)
        norm = apply_update(
            optimiser,
            clip=config.clip,
            factor=warmup_cosine(step, steps=steps, warmup=config.warmup),
            stage="dpo",
            step=step,
            loss=row[0],
        )
        history = [*history, row][-per_epoch:]
        done = step + 1
        due = on_checkpoint is not None and config.checkpoint_every > 0 and done % config.checkpoint_every == 0
        if due or done == steps:
            met = [pairs[i] for i in batch]
            require_usable(
                policy, [p.prompt for p in met] * 2, [p.chosen for p in met] + [p.rejected for p in met],
                config.precision, config.max_padded, stage="dpo", step=step,
            )  # fmt: skip
        if on_checkpoint is not None and due and share.rank == 0:
            on_checkpoint(done, policy)
        state.keep(done, {"history": history}, now=done == steps)
        if share.rank == 0:
            report(done, steps, {**_means(history), "grad_norm": norm})
    return _means(history)


def _sums(
    policy: Policy, pairs: Sequence[TokenPair], rows: Sequence[int], config: DPOConfig, own: OwnTokens | None
) -> tuple[Tensor, Tensor]:
    """log p of whole completions in nats: of the chosen and of the rejected sides of the pairs `rows`, (n,) each.

    Both sides of a pair go through the policy side by side, so that their prompt does once.
    """
    prompts = [pairs[i].prompt for i in rows] * 2
    completions = [*(pairs[i].chosen for i in rows), *(pairs[i].rejected for i in rows)]
    pad = policy.tokenizer.pad_token_id

    def sums(part: list[int]) -> Tensor:
        given, written = [prompts[i] for i in part], [completions[i] for i in part]
        with precision(config.precision, policy.model.device):
            logps, _ = token_logps(policy.model, given, written, pad)
        return (logps if own is None else logps * own(given, written).to(logps.device)).sum(-1)  # 0 where padded

    joined = over_parts(sums, prompts, completions, config.max_padded)
    return joined[: len(rows)], joined[len(rows) :]


def _losses(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    batch: Sequence[TokenPair],
    config: DPOConfig,
) -> DirectLosses:
    weights = torch.tensor([pair.weight for pair in batch], device=chosen.device)
    sides = (chosen, rejected, reference_chosen, reference_rejected)
    if config.loss == "dpo":
        # A tie or a share of votes says how likely the label is to be the other way round; smoothing adds to it.
        wrong = 1 - torch.tensor([pair.target for pair in batch], device=chosen.device)
        wrong = wrong + config.label_smoothing * (1 - 2 * wrong)
        return dpo(*sides, beta=config.beta, label_smoothing=wrong, weights=weights)
    lengths = None
    if config.length_mean:
        lengths = (
            torch.tensor([float(len(pair.chosen)) for pair in batch], device=chosen.device),
            torch.tensor([float(len(pair.rejected)) for pair in batch], device=chosen.device),
        )
    return ipo(*sides, beta=config.beta, lengths=lengths, weights=weights)


def _check_start(*ratios: Tensor) -> None:
    largest = max(float(ratio.detach().abs().max()) for ratio in ratios)
    # Sums over a completion's tokens: a hundred times what one token may differ by.
    if not largest <= 100 * RATIO_TOLERANCE:
        raise TrainingDiverged(
            f"dpo: at step 0 the policy equals its reference, yet a completion's log-ratio is {largest:.3g} nats",
            remedy="train and score with the same precision",
        )


def _means(history: Sequence[Sequence[float]]) -> dict[str, float]:
    count = max(1, len(history))
    return {
        name: sum(row[i] for row in history) / count for i, name in enumerate(("loss", "accuracy", "margin"))
    }
