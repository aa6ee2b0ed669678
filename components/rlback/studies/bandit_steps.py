"""Policy steps on the bandit and the misreward exposure of each, for all lanes at once.

A step multiplies the policy by exp(rate times advantage) and normalises: the natural policy gradient of a softmax
table, which treats all actions alike however rare (Kakade 2001). It stands for a policy that generalises; the plain
gradient of a table would never find an exploit that the base policy does not sample. Advantages are divided by their
standard deviation, as implementations of GRPO do, so that a step goes as far whatever the reward's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rlback.studies.draws import SeedwiseDraws
from rlback.studies.protocol import Array, Counts, Segment, StepCheckpoint, no_exposure
from rlback.worlds.bandit import policies
from rlback.worlds.bandit.problem import Bandit

#: In standard deviations of gold: below it an action is clearly wrong (science, section 2.2).
EPSILON = 0.5

#: From step number and policy to the signal to follow, (s, x, a), how far to go along it as a share of the step's
#: size, (s,), and the labels that were asked for, (s,).
Signal = Callable[[int, Array], tuple[Array, Array, Counts]]


@dataclass(frozen=True)
class Walk:
    """What all steps of a learner share. noise: standard deviation of the error in each action's advantage, in units
    of the advantages' own: a finite batch. kl_limit: nats from the base beyond which a lane counts as diverged.
    """

    bandit: Bandit
    noise: float
    kl_limit: float

    def follow(self, start: Array, signal: Signal, segment: Segment, draws: SeedwiseDraws) -> Iterator[StepCheckpoint]:
        """Steps along a signal; the noise of step t is the same whoever asks for it."""
        policy, lanes = start, len(start)
        reference = start if segment.reference == "start" else self.bandit.base
        exposure, labels = no_exposure(lanes), np.zeros(lanes, dtype=np.int64)
        done, diverged = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=bool)
        last = int(segment.steps.max(initial=0))
        for t in range(last):
            active = (t < segment.steps) & ~diverged
            noise = draws.standard_normal(policy.shape) if self.noise else 0.0
            table, share, asked = signal(t, policy)
            advantage, spread = advantages(policy, table)
            direction = advantage / spread[:, None, None] + self.noise * noise
            if segment.beta:
                direction = direction - segment.beta * advantages(policy, policy - reference)[0]
            length = np.where(active, np.sqrt(2) * segment.size * share, 0.0)[:, None, None]
            moved = policies.log_softmax(policy + length * direction)
            seen = step_exposure(self.bandit, policy, moved, advantage / spread[:, None, None], length[:, 0, 0])
            exposure = exposure + np.where(active[:, None, None], seen, 0.0)
            policy = np.where(active[:, None, None], moved, policy)
            done, labels = done + active, labels + np.where(active, asked, 0)
            if (t + 1) % segment.every == 0 or t + 1 == last:
                far = policies.kl(policy, self.bandit.base) > self.kl_limit
                diverged = diverged | ~np.isfinite(policy).all((-1, -2)) | far
                yield StepCheckpoint(done.copy(), policy, exposure, labels.copy(), diverged)


def advantages(policy: Array, table: Array) -> tuple[Array, Array]:
    """table minus its mean in each context, (s, x, a), and its standard deviation over all of them, (s,)."""
    p = np.exp(policy)
    advantage = table - (p * table).sum(-1, keepdims=True)
    return advantage, np.maximum(np.sqrt((p * advantage**2).sum(-1).mean(-1)), 1e-12)


def step_exposure(bandit: Bandit, before: Array, after: Array, advantage: Array, length: Array) -> Array:
    """Parts and wholes of the shares of one step, (s, 5, 2), exact: every action counts with its probability. length (s,):
    of the step, in place of a learning rate.

    As maths/misreward.py (sign, false) and maths/exposure.py (bad, flow) have them for samples and single tables.
    """
    p = np.exp(before)
    gold = advantages(before, bandit.gold)[0]
    weight = p * np.abs(advantage)
    up = weight * (advantage > 0)
    upward = p * np.maximum(after - before, 0.0)
    flow = p * advantage, p * gold
    both = np.sqrt((flow[0] ** 2).sum((-1, -2)) * (flow[1] ** 2).sum((-1, -2)))
    against = np.maximum(-(flow[0] * flow[1]).sum((-1, -2)), 0.0)
    sign = (weight * (advantage * gold < 0)).sum((-1, -2)), weight.sum((-1, -2))
    sums = [
        sign,
        ((up * (gold < -EPSILON)).sum((-1, -2)), up.sum((-1, -2))),
        ((upward * bandit.bad).sum((-1, -2)), upward.sum((-1, -2))),
        (against, both),
        (length * sign[0], length * sign[1]),
    ]
    return np.stack([np.stack(pair, -1) for pair in sums], 1)
