"""Reward-model training on preference pairs with the Bradley-Terry loss; all members of an ensemble in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlback.errors import ConfigError, DataError
from rlback.maths import bradley_terry
from rlback.models.batching import in_parts
from rlback.models.policy import positions_of, require_known
from rlback.models.reward_model import RewardModel, mean_and_spread, member_name
from rlback.records import Report, digest_of, seed_of, silent
from rlback.settings import RewardConfig
from rlback.training.batches import Tokens, epoch_slice, over_parts
from rlback.training.parallel import ALONE, Share
from rlback.training.state import StageState, tokens_digest
from rlback.training.updates import adam, apply_update, precision, warmup_cosine

#: Told how many rows a part that is computed had.
Passed = Callable[[int], None]


@dataclass(frozen=True)
class TokenPair:
    """A preference pair as token ids: the very ids that were sampled, end token included.

    `target` is the probability that `chosen` is the better one: 1 for a label, 1/2 for a tie, 0.6 for three votes in
    five. `margin` (at least 0, in units of raw score) is the lead that the better one is asked to have.
    """

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    weight: float = 1.0
    target: float = 1.0
    margin: float = 0.0


def fit_reward(
    reward_model: RewardModel,
    pairs: Sequence[TokenPair],
    config: RewardConfig,
    *,
    seed: int,
    report: Report = silent,
    state_dir: Path | None = None,
    save_every_s: float = 20.0,
    share: Share = ALONE,
) -> dict[str, float]:
    """Train in place; returns the last epoch's `loss` and `accuracy` on the pairs as they were met.

    Both are means over the members. Ties have no part in the accuracy, and none in the fit unless `config.use_ties`.
    An ensemble's loss is the mean over members of the losses on their own resamples (`bootstrap_weights`). Members with
    trunks of their own go through the pairs in orders of their own, as fits one after the other would. Apart from a
    shared trunk and the clipping of the joint gradient, a member learns as if it were alone.

    The weights that `reward_model` has are the start: fresh ones, or those of an earlier fit (`warm_start`). Scores are
    left as they come out: call the model's `rescale` on reference samples before they are used as a reward, or the KL
    coefficient changes its meaning with every fit. Resumes exactly as `train_base` does. Of several processes (`share`)
    each computes its pairs of every batch, and the first one alone saves and reports.

    Raises DataError on pairs that cannot be used; ConfigError where members could not come to differ;
    TrainingDiverged on a loss or gradient that is not finite, and when a member ends up giving all completions of the
    last batch one score. The newest saved state is then the last good one.
    """
    check_pairs(pairs, reward_model.first_trunk)
    pairs = [pair for pair in pairs if config.use_ties or pair.target != 0.5]
    if not pairs:
        raise DataError("all preference pairs are ties", remedy="collect labels that are no ties, or set use_ties: true")
    members = reward_model.shape.members
    apart = members > 1 and not reward_model.shape.share_trunk
    if members > 1 and not apart and reward_model.shape.pooling == "sum" and not config.bootstrap:
        raise ConfigError(
            f"the {members} members of a reward model with pooling: sum start equal, and without bootstrap they stay equal",
            remedy="set reward_model.training.bootstrap: true, or reward_model.shape.share_trunk: false",
        )
    steps = max(1, math.ceil(config.epochs * len(pairs) / config.batch))
    reward_model.eval()
    optimiser = adam(_groups(reward_model, config), lr=config.lr, betas=config.betas)
    data = tokens_digest(ids for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected))
    said = [[pair.weight, pair.target, pair.margin] for pair in pairs]
    identity = digest_of(["reward", asdict(config), seed, data, said, reward_model.identity()])
    state = StageState(state_dir, identity, reward_model, optimiser, every_s=save_every_s, writes=share.rank == 0)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    first, kept = state.resume()
    history: list[list[float]] = kept.get("history", [])
    per_epoch = max(1, len(pairs) // config.batch)
    device = reward_model.device
    sides = _Sides.of(reward_model, pairs)
    # A trunk and a bag differ by themselves.
    drawn = bootstrap_weights(reward_model.shape.count, len(pairs), seed) if members > 1 and config.bootstrap else None
    labels = _Labels.of(pairs, drawn, device)

    for step in range(first, steps):
        value = right = decided = 0.0
        # One pass over a batch for all members, or for each its own.
        passes = range(members) if apart else [None]
        for member in passes:
            order = seed_of(seed, "reward order", member) if member else seed_of(seed, "reward order")
            batch = epoch_slice(len(pairs), config.batch, order, step)
            mine = share.of(batch)
            if not mine:
                continue
            with precision(config.precision, device):
                chosen, rejected = sides.scores(reward_model, mine, config.max_padded, member)
            # Means over this process's pairs, by its part of the batch: over all processes they add up to the batch's.
            loss = labels.loss(chosen, rejected, mine, batch, config.label_smoothing, member)
            penalty = config.score_l2 * 0.5 * (chosen.square().mean() + rejected.square().mean())
            if config.centering:
                penalty = penalty + config.centering * bradley_terry.centering(chosen, rejected)
            ((loss + penalty * (len(mine) / len(batch))) / len(passes)).backward()
            value += float(loss.detach()) / len(passes)
            found = labels.right(chosen, rejected, mine)
            right, decided = right + found[0], decided + found[1]
        value, right, decided = share.add_up(parameters, [value, right, decided])
        norm = apply_update(
            optimiser,
            clip=config.clip,
            factor=warmup_cosine(step, steps=steps, warmup=config.warmup),
            stage="reward model",
            step=step,
            loss=value,
        )
        history = [*history, [value, *([right / decided] if decided else [])]][-per_epoch:]
        if step + 1 == steps:
            _check_fitted(reward_model, sides, batch, config)
        state.keep(step + 1, {"history": history}, now=step + 1 == steps)
        if share.rank == 0:
            report(step + 1, steps, {**_means(history), "grad_norm": norm})
    return _means(history)


def bootstrap_weights(members: int, count: int, seed: int) -> Tensor:
    """How often each member sees each pair, (members, count) float32: `count` draws with replacement for each.

    Every row sums to `count`, and leaves out about 37 % of the pairs (Efron's bootstrap). What a member of an
    ensemble is sure of only because of a few pairs, the members that did not see them will not be.
    """
    rows = []
    for member in range(members):
        generator = torch.Generator().manual_seed(seed_of(seed, "bootstrap", member))
        rows.append(torch.randint(count, (count,), generator=generator).bincount(minlength=count))
    return torch.stack(rows).float()


@torch.no_grad()
def pair_scores(
    reward_model: RewardModel, pairs: Sequence[TokenPair], *, max_padded: int = 4096, report: Report = silent
) -> tuple[Tensor, Tensor]:
    """Scores of the chosen and of the rejected completions, (n,) each, in the order of `pairs`, as `score` gives them.

    `report` counts completions, twice where their log-probs under the frozen policy are computed first.
    Before the first `rescale` a single model's are its raw ones; an ensemble's members have no common scale until then.
    """
    check_pairs(pairs, reward_model.first_trunk)
    reward_model.eval()
    done, total = 0, 2 * len(pairs) * (1 + reward_model.shape.surprise)

    def passed(rows: int) -> None:
        nonlocal done
        done += rows
        report(done, total, {})

    sides = _Sides.of(reward_model, pairs, passed)
    chosen, rejected = sides.scores(reward_model, range(len(pairs)), max_padded, passed=passed)
    return reward_model.combine(chosen), reward_model.combine(rejected)


@dataclass(frozen=True)
class _Labels:
    """What was said about the pairs. weights: (n,), or (members, n) where each member sees its own resample.

    targets: (n,), `soft` when any is not 1. margins: (n,), or None where all are 0.
    """

    targets: Tensor
    margins: Tensor | None
    weights: Tensor
    soft: bool

    @classmethod
    def of(cls, pairs: Sequence[TokenPair], drawn: Tensor | None, device: torch.device) -> _Labels:
        targets = torch.tensor([pair.target for pair in pairs])
        margins = torch.tensor([pair.margin for pair in pairs])
        weights = torch.tensor([pair.weight for pair in pairs])
        if drawn is not None:
            weights = weights * drawn
        given = margins.to(device) if bool(margins.any()) else None
        return cls(targets.to(device), given, weights.to(device), bool((targets != 1).any()))

    def loss(
        self,
        chosen: Tensor,
        rejected: Tensor,
        mine: Sequence[int],
        batch: Sequence[int],
        smoothing: float,
        member: int | None,
    ) -> Tensor:
        """The weighted mean over pairs, and over members where scores are (members, b); or of one member's, (b,).

        Of the pairs `mine` their part of the mean over the whole `batch`, in which they are.
        """
        drawn = self.weights if member is None or self.weights.ndim == 1 else self.weights[member]
        members = len(chosen) if chosen.ndim > drawn.ndim else 1
        weights, whole = drawn[..., mine].expand(chosen.shape), drawn[..., batch].sum() * members
        if not bool(weights.any()):
            # A small batch of pairs that no member drew: nothing is learned from it.
            return (chosen + rejected).sum() * 0.0
        mean = bradley_terry.loss(
            chosen,
            rejected,
            weights=weights,
            label_smoothing=smoothing,
            votes=self.targets[mine] if self.soft else None,
            margins=None if self.margins is None else self.margins[mine],
        )
        # Alone a process has it all; nothing is multiplied, and no bit changes.
        return mean if len(mine) == len(batch) else mean * (weights.sum() / whole)

    def right(self, chosen: Tensor, rejected: Tensor, batch: Sequence[int]) -> tuple[float, float]:
        """(how many of the pairs that are no ties are told right, how many there are), those below 1/2 turned round."""
        target = self.targets[batch]
        decided = target != 0.5
        count = float(decided.sum())
        if not count:
            return 0.0, 0.0
        first, second = chosen[..., decided], rejected[..., decided]
        swap = target[decided] < 0.5
        told = bradley_terry.accuracy(torch.where(swap, second, first), torch.where(swap, first, second))
        return float(told) * count, count


@dataclass(frozen=True)
class _Sides:
    """Both sides of all pairs, (prompt, completion) each: the chosen of every pair, then the rejected.

    `surprise` holds each row's log-probs under the reward model's frozen policy (None without that channel):
    they never change, so they are computed once and not in every epoch.
    """

    prompts: list[Tokens]
    completions: list[Tokens]
    surprise: list[Tensor] | None

    @classmethod
    def of(cls, reward_model: RewardModel, pairs: Sequence[TokenPair], passed: Passed | None = None) -> _Sides:
        prompts = [pair.prompt for pair in pairs] * 2
        completions = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        if not reward_model.shape.surprise:
            return cls(prompts, completions, None)
        surprise: list[Tensor] = [torch.empty(0)] * len(prompts)
        for part in in_parts(prompts, completions, 4096):
            rows = reward_model.surprise([prompts[i] for i in part], [completions[i] for i in part])
            for i, row in zip(part, rows, strict=True):
                surprise[i] = row[: len(completions[i])].clone()
            if passed is not None:
                passed(len(part))
        return cls(prompts, completions, surprise)

    def scores(
        self, reward_model: RewardModel, batch: Sequence[int], max_padded: int, member: int | None = None,
        passed: Passed | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Raw fp32 scores of the chosen and of the rejected sides of the pairs `batch`, (n,) or (members, n) each.

        `member`: of that one alone, (n,). `passed` is told how many rows each part had.

        Both sides of a pair go through the trunk side by side, so that their prompt does once.
        """
        rows = [*batch, *(i + len(self.prompts) // 2 for i in batch)]

        def score(part: list[int]) -> Tensor:
            chosen = [rows[i] for i in part]
            scores = reward_model(
                [self.prompts[i] for i in chosen],
                [self.completions[i] for i in chosen],
                None if self.surprise is None else [self.surprise[i] for i in chosen],
                member,
            ).movedim(-1, 0)
            if passed is not None:
                passed(len(part))
            return scores

        prompts, completions = [self.prompts[i] for i in rows], [self.completions[i] for i in rows]
        scores = over_parts(score, prompts, completions, max_padded).float().movedim(0, -1)
        return scores[..., : len(batch)], scores[..., len(batch) :]


def _groups(reward_model: RewardModel, config: RewardConfig) -> list[dict[str, object]]:
    """Trainable parameters by part (trunk, per-token tables, heads), each at its own rate.

    A trunk that was pretrained needs small steps, a head that starts at nothing large ones. Vectors (norms)
    are not decayed.
    """
    table = config.token_table_lr_factor
    factors = {"trunk": config.trunk_lr_factor, "token_table": table, "bag": table}
    groups: dict[tuple[float, float], dict[str, object]] = {}
    for name, parameter in reward_model.named_parameters():
        if parameter.requires_grad:
            lr = config.lr * factors.get(name.split(".")[0], config.head_lr_factor)
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def _means(history: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over batches, of [loss, accuracy] or, where a batch had only ties, [loss]; no accuracy at all is a coin's."""
    right = [row[1] for row in history if len(row) > 1]
    return {
        "loss": sum(row[0] for row in history) / max(1, len(history)),
        "accuracy": sum(right) / len(right) if right else 0.5,
    }


@torch.no_grad()
def _check_fitted(reward_model: RewardModel, sides: _Sides, batch: Sequence[int], config: RewardConfig) -> None:
    """After the last update, before the state is kept: every member tells the batch's completions apart."""
    half = len(sides.prompts) // 2
    rows = [*batch, *(i + half for i in batch)]
    if len({(*sides.prompts[i], -1, *sides.completions[i]) for i in rows}) == 1:
        return
    with precision(config.precision, reward_model.device):
        scores = torch.cat(sides.scores(reward_model, batch, config.max_padded), -1)
    for member, row in enumerate(scores.view(reward_model.shape.count, -1)):
        mean_and_spread(row, f"{member_name(reward_model, member)} on the last batch of the fit")


def check_pairs(pairs: Sequence[TokenPair], model: PreTrainedModel) -> None:
    """Raises DataError on no pairs, an empty prompt or completion, one that the model has no positions or a token that it has
    no embedding for, a target that is no probability, a bad weight or margin.
    """
    if not pairs:
        raise DataError("there are no preference pairs", remedy="collect labels first")
    positions = positions_of(model)
    require_known(model, "preference pair", ((*pair.prompt, *pair.chosen, *pair.rejected) for pair in pairs))
    for number, pair in enumerate(pairs):
        if not (len(pair.prompt) and len(pair.chosen) and len(pair.rejected)):
            raise DataError(
                f"preference pair {number} has an empty prompt or completion", remedy="remove empty pairs"
            )
        longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        if positions is not None and longest > positions:
            raise DataError(
                f"preference pair {number} has a side of {longest} tokens with its prompt; the model has {positions} positions",
                remedy="cut the texts (source.max_prompt_tokens, source.max_completion_tokens) or raise max_positions",
            )
        if not 0 <= pair.target <= 1:
            raise DataError(
                f"preference pair {number} has the target {pair.target}", remedy="a target is a probability, from 0 to 1"
            )
        for name, value in (("weight", pair.weight), ("margin", pair.margin)):
            if not 0 <= value < math.inf:
                raise DataError(f"preference pair {number} has the {name} {value}", remedy=f"a {name} is finite, at least 0")
    if not any(pair.weight for pair in pairs):
        raise DataError("all preference pairs have weight 0", remedy="give weights above 0 to pairs that count")
