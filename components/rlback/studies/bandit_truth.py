"""What the bandit knows and a language model does not: second verdicts, audits, exact optima, the tail of an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rlback.maths.early_signals import hill
from rlback.studies.bandit_models import Scores
from rlback.studies.bandit_steps import EPSILON, advantages, step_exposure
from rlback.studies.draws import SeedwiseDraws
from rlback.studies.protocol import Array, Mask, Segment, StepCheckpoint, no_exposure
from rlback.worlds.bandit import policies
from rlback.worlds.bandit.annotators import BanditAnnotator, Pairs, at, label
from rlback.worlds.bandit.problem import Bandit

#: An annotator's settings without what does not average out; temperature and flips stay.
UNBIASED = {"length_bias": 0.0, "confidence_bias": 0.0, "fooled": 0.0}
#: Samples a seed for the tail index, and the share of them that makes the tail.
_TAIL_SAMPLES = 500
#: Samples looked through for one that is audited: the audited ones are the tenth that is scored highest.
_PER_AUDIT = 10


def again(bandit: Bandit, annotator: BanditAnnotator, pairs: Pairs, draws: SeedwiseDraws) -> Pairs:
    """The same comparisons with independent verdicts."""
    human = annotator.reward(bandit)
    chance = annotator.preference(at(human, pairs.context, pairs.a) - at(human, pairs.context, pairs.b))
    return replace(pairs, a_wins=(draws.random(chance.shape) < chance).astype(float))


def faults(
    bandit: Bandit, annotator: BanditAnnotator, policy: Array, reward: Scores, count: int, draws: SeedwiseDraws
) -> Mask:
    """(s, count): whether people see a sample as clearly worse than the base policy's mean, among those scored highest.

    They see their own reward, so that who is fooled by an item finds no fault with it.
    """
    drawn = label(bandit, annotator, policy, policy, _PER_AUDIT * count, draws)
    seen = annotator.reward(bandit)
    worth = at(seen - policies.value(bandit.base, seen)[:, None, None], drawn.context, drawn.a)
    best = np.argsort(-at(reward.table, drawn.context, drawn.a), axis=-1, kind="stable")[:, :count]
    return np.take_along_axis(worth, best, -1) < -EPSILON


def tail_index(bandit: Bandit, policy: Array, reward: Scores, draws: SeedwiseDraws) -> Array:
    """Hill's index (s,) of the standardised score less gold, centred, on the policy's own samples; NaN without a tail."""
    drawn = label(bandit, BanditAnnotator(temperature=0), policy, policy, _TAIL_SAMPLES, draws)
    error = at(reward.table - bandit.gold, drawn.context, drawn.a)
    found = np.full(len(error), math.nan)
    for lane, values in enumerate(error - error.mean(-1, keepdims=True)):
        try:
            found[lane] = hill(values).value
        except ValueError:
            continue  # a policy of few actions, or a score that is gold itself, has no tail to speak of
    return found


def best_within(bandit: Bandit, start: Array, reward: Scores, limit: Array, segment: Segment) -> Array:
    """The policy with the highest score within `limit` (s,) nats of the base policy; `start` in lanes with no steps."""
    best = policies.optimum_at_kl(bandit.base, reward.table, limit)
    return np.where((segment.steps > 0)[:, None, None], best, start)


def checkpoint(bandit: Bandit, start: Array, moved: Array, reward: Scores, segment: Segment) -> StepCheckpoint:
    """The exact optimum as the end of a path of one step."""
    advantage, spread = advantages(start, reward.table)
    none = np.zeros(len(start), dtype=np.int64)
    length = np.sqrt(2 * policies.kl(moved, start))
    exposure = step_exposure(bandit, start, moved, advantage / spread[:, None, None], length)
    return StepCheckpoint(segment.steps.copy(), moved, exposure, none, none > 0)


def within(
    bandit: Bandit, path: Iterator[StepCheckpoint], start: Array, limit: Array, segment: Segment
) -> Iterator[StepCheckpoint]:
    """A path on which every lane stays at its last point within `limit` (s,) nats of the base policy; every
    `segment.every`-th step is yielded, and the last. The steps beyond are counted as made, for they are paid for."""
    inside, last = np.ones(len(start), dtype=bool), int(segment.steps.max(initial=0))
    policy, exposure = start, no_exposure(len(start))
    for step, seen in enumerate(path, 1):
        inside &= policies.kl(seen.policy, bandit.base) <= limit
        wide = inside[:, None, None]
        policy, exposure = np.where(wide, seen.policy, policy), np.where(wide, seen.exposure, exposure)
        if step % segment.every == 0 or step == last:
            yield replace(seen, policy=policy, exposure=exposure)
