"""Reward models of the bandit as a study needs them: score tables on one scale, alone or in ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlback.studies.protocol import Array, Batch, Combine, Counts, Mask
from rlback.worlds.bandit import policies, reward_model
from rlback.worlds.bandit.annotators import Pairs
from rlback.worlds.bandit.problem import Bandit


@dataclass(frozen=True)
class Scores:
    """A scorer of all lanes. table (s, x, a): mean 0 and standard deviation 1 under the base policy; scale (s,): one
    such unit in the model's own, which for a reward model are log-odds. members (m, s, x, a): each on the same scale
    as the table. thetas (m, s, f): coefficients, None for an automated scorer.
    """

    table: Array
    scale: Array
    members: Array
    thetas: Array | None


def scores_of_table(bandit: Bandit, table: Array, thetas: Array | None = None) -> Scores:
    """An automated scorer, or one reward model."""
    scaled, scale = _standardised(bandit, table)
    return Scores(scaled, scale, scaled[None], thetas)


def scores_of(bandit: Bandit, thetas: Array) -> Scores:
    """Members with coefficients (m, s, f), scored by their mean until `combine` says otherwise."""
    each = [_standardised(bandit, reward_model.score(bandit, theta)) for theta in thetas]
    members = np.stack([table for table, _ in each])
    table, _ = _standardised(bandit, members.mean(0))
    return Scores(table, np.stack([scale for _, scale in each]).mean(0), members, thetas)


def combine(bandit: Bandit, models: Sequence[Scores], has: Sequence[Mask], how: Combine, weight: float) -> Scores:
    """See Learner.combine. A lane that has none of the models keeps the last one's score."""
    last = models[-1]
    if how == "last":
        return last
    members = np.concatenate([m.members for m in models])
    on = np.concatenate([np.repeat(mask[None], len(m.members), 0) for m, mask in zip(models, has, strict=True)]).astype(float)
    on[-1, on.sum(0) == 0] = 1.0
    share = (on / on.sum(0))[..., None, None]
    mean = (share * members).sum(0)
    scale = np.concatenate([np.repeat(m.scale[None], len(m.members), 0) for m in models])
    usual = (share[..., 0, 0] * scale).sum(0)
    if how == "weight_average":
        thetas = np.concatenate([m.thetas for m in models if m.thetas is not None])
        averaged = scores_of_table(bandit, reward_model.score(bandit, (share[..., 0] * thetas).sum(0)))
        return Scores(averaged.table, averaged.scale, members, last.thetas)
    if how == "worst_case":
        table = np.where(on[..., None, None] > 0, members, np.inf).min(0)
    elif how == "uncertainty_weighted":
        table = mean - weight * (share * (members - mean) ** 2).sum(0)
    else:
        table = mean
    return Scores(_standardised(bandit, table)[0], usual, members, last.thetas)


def fit(
    bandit: Bandit, data: Sequence[Batch], members: int, uniform: Array, ridge: float, sample: Counts | None
) -> Scores:
    """Fits `members` models to the lanes' labels. uniform (s, members, n): what decides resampling.

    With more than one member each sees its labels drawn again with replacement (the bootstrap), with equal total weight.
    """
    pairs = data[0].labels
    for batch in data[1:]:
        pairs = pairs.joined(batch.labels)
    weights = np.concatenate([np.repeat(b.lanes[:, None], b.count, 1) for b in data], 1).astype(float)
    if sample is not None:
        weights = weights * _first(np.where(weights > 0, uniform[:, 0], 2.0), sample)
    thetas = [
        reward_model.fit(bandit, pairs, ridge=ridge, weights=_resampled(weights, uniform[:, m]) if members > 1 else weights)
        for m in range(members)
    ]
    return scores_of(bandit, np.stack(thetas))


def labels_in(data: Sequence[Batch]) -> int:
    """Labels of a lane that has all of them."""
    return sum(batch.count for batch in data)


def predicted(scores: Scores, pairs: Pairs) -> Array:
    """Probability that side a wins by the score in log-odds, (s, n)."""
    lanes = np.arange(len(scores.table))[:, None]
    margin = scores.table[lanes, pairs.context, pairs.a] - scores.table[lanes, pairs.context, pairs.b]
    return 0.5 * (1 + np.tanh(scores.scale[:, None] * margin / 2))


def member_spread(scores: Scores) -> Array:
    """Standard deviation over members, (s, x, a); 0 for one member."""
    return scores.members.std(0)


def _standardised(bandit: Bandit, table: Array) -> tuple[Array, Array]:
    scale = np.maximum(policies.spread(bandit.base, table), 1e-9)
    return (table - policies.value(bandit.base, table)[:, None, None]) / scale[:, None, None], scale


def _first(order: Array, count: Counts) -> Array:
    """1 for the `count` smallest entries of each row, else 0."""
    rank = order.argsort(-1).argsort(-1)
    return (rank < count[:, None]).astype(float)


def _resampled(weights: Array, uniform: Array) -> Array:
    """How often each label is drawn in as many draws as the lane has labels, by inverting the cumulative weights."""
    cumulative = weights.cumsum(-1)
    drawn = np.empty_like(weights)
    for lane, (edges, u) in enumerate(zip(cumulative, uniform, strict=True)):
        n = int(edges[-1])
        # A label of weight 0 has an empty stretch and is never hit.
        hit = np.searchsorted(edges, u[:n] * edges[-1], side="right")
        drawn[lane] = np.bincount(hit, minlength=len(edges))
    return drawn
