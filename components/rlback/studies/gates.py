"""Who decides on a candidate: people, gold, a coin, an ensemble's disagreement, or nobody (arms.ArmGate)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlback.maths.sequential import attempt_alpha, betting_bounds
from rlback.studies.arms import Arm
from rlback.studies.draws import SeedwiseDraws
from rlback.studies.protocol import Array, Counts, Key, LabelBatch, Learner, Mask, Policy, RewardModel


@dataclass(frozen=True)
class Evidence:
    """What a gate may look at. cross: labels of the candidate (side a) against the kept policy, None where the gate is
    no person. round, attempt (lanes,): counted from 1. rate: of a coin.
    """

    kept: Policy
    candidate: Policy
    cross: LabelBatch | None
    reward: RewardModel | None
    round: Counts
    attempt: Counts
    rate: float | None
    seeds: tuple[int, ...]
    key: Key


def asks_people(arm: Arm) -> bool:
    """Whether the arm's gate decides on cross pairs that people labelled for it."""
    return arm.gate.by == "person"


def passes(learner: Learner, arm: Arm, seen: Evidence) -> Mask:
    """Lanes whose candidate is let through, (lanes,)."""
    gate = arm.gate
    if gate.by == "always":
        return np.ones(learner.lanes, dtype=bool)
    if gate.by == "lookahead":
        return seen.attempt >= arm.attempts
    if gate.by == "oracle":
        return _gold(learner, seen.candidate) >= _gold(learner, seen.kept)
    if gate.by == "random":
        if seen.rate is None:
            raise ValueError("a random gate was given no rate")
        return SeedwiseDraws(seen.seeds, *seen.key, "coin").random((learner.lanes,)) < seen.rate
    if gate.by == "disagreement":
        before = learner.disagreement(seen.kept, seen.reward)
        return learner.disagreement(seen.candidate, seen.reward) <= gate.threshold * before
    return _people(learner, arm, seen)


def _people(learner: Learner, arm: Arm, seen: Evidence) -> Mask:
    wins = learner.wins(seen.cross)
    if arm.gate.rule == "share":
        passed = wins.mean(1) >= arm.gate.threshold
    else:
        passed = np.array([
            _bound_above(y, arm.gate.threshold, attempt_alpha(arm.gate.alpha, int(c), int(a)))
            for y, c, a in zip(wins, seen.round, seen.attempt, strict=True)
        ])  # fmt: skip
    if arm.gate.overclaim is not None and seen.reward is not None:
        expected = learner.predicted(seen.cross, seen.reward)
        passed &= (expected - wins).mean(1) <= arm.gate.overclaim
    return passed


def _bound_above(verdicts: Array, threshold: float, alpha: float) -> bool:
    """Whether some prefix of the verdicts excludes a win rate at or below the threshold (valid at any stopping time)."""
    return bool((betting_bounds(verdicts, alpha).lower > threshold).any())


def _gold(learner: Learner, policy: Policy) -> Array:
    return learner.evaluate(policy, policy, None, pairs=False).gold
