"""Who decides on a candidate: people, gold, a coin, an ensemble's disagreement, or nobody (arms.ArmGate)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from rlback.maths.sequential import attempt_alpha, betting_bounds
from rlback.studies.arms import Arm
from rlback.studies.draws import SeedwiseDraws
from rlback.studies.protocol import Array, Batch, Counts, Learner, Mask, Policy, RewardModel

#: Gates with a module of their own, which holds `most_labels` and `decide` as they are here; imported when an arm names
#: one. What such a module imports is in the digest of the arms that name it, and of no others.
MODULES: dict[str, str] = {
    "statistics": "rlback.studies.gate_statistics",
    "approver": "rlback.studies.gate_approver",
}


@dataclass(frozen=True)
class Evidence:
    """What a gate may look at. lanes: those with a candidate. cross: comparisons of one look, of the candidate (side a)
    against the kept policy. round, attempt (lanes,): counted from 1. turn: of the machine; names the draws. rate: of a
    coin.
    """

    lanes: Mask
    kept: Policy
    candidate: Policy
    cross: int
    reward: RewardModel | None
    round: Counts
    attempt: Counts
    rate: float | None
    seeds: tuple[int, ...]
    turn: int


@dataclass(frozen=True)
class Decision:
    """passed (lanes,). labels (lanes,): asked for by the gate. win_rate: the candidate's and of how many labels. batches:
    cross labels that may be learned from once the verdict is given.
    """

    passed: Mask
    labels: Counts
    win_rate: tuple[Array, Counts] | None = None
    batches: tuple[Batch, ...] = ()


def most_labels(arm: Arm, cross: int) -> int:
    """Labels that the gate of an arm may ask for, at most, in one attempt."""
    if arm.gate.by in MODULES:
        found: int = import_module(MODULES[arm.gate.by]).most_labels(arm, cross)
        return found
    return cross if arm.gate.by == "person" else 0


def decide(learner: Learner, arm: Arm, seen: Evidence) -> Decision:
    """Which candidates are let through, and what it took in labels."""
    if arm.gate.by in MODULES:
        decided: Decision = import_module(MODULES[arm.gate.by]).decide(learner, arm, seen)
        return decided
    if arm.gate.by == "person" and arm.choice.by != "ladder":
        return _people(learner, arm, seen)
    return Decision(_without_people(learner, arm, seen), np.zeros(learner.lanes, dtype=np.int64))


def _without_people(learner: Learner, arm: Arm, seen: Evidence) -> Mask:
    gate = arm.gate
    if gate.by == "lookahead":
        return seen.attempt >= arm.attempts
    if gate.by == "oracle":
        return _gold(learner, seen.candidate) >= _gold(learner, seen.kept)
    if gate.by == "random":
        if seen.rate is None:
            raise ValueError("a random gate was given no rate")
        return SeedwiseDraws(seen.seeds, "gate", seen.turn, "coin").random((learner.lanes,)) < seen.rate
    if gate.by == "disagreement":
        before = learner.disagreement(seen.kept, seen.reward)
        return learner.disagreement(seen.candidate, seen.reward) <= gate.threshold * before
    return np.ones(learner.lanes, dtype=bool)


def _people(learner: Learner, arm: Arm, seen: Evidence) -> Decision:
    cross = learner.collect(seen.candidate, seen.kept, seen.cross, ("cross", seen.turn))
    wins = learner.wins(cross)
    if arm.gate.rule == "share":
        passed = wins.mean(1) >= arm.gate.threshold
    else:
        passed = np.array([
            _bound_above(y, arm.gate.threshold, attempt_alpha(arm.gate.alpha, int(c), int(a)))
            for y, c, a in zip(wins, seen.round, seen.attempt, strict=True)
        ])  # fmt: skip
    if arm.gate.overclaim is not None and seen.reward is not None:
        expected = learner.predicted(cross, seen.reward)
        passed &= (expected - wins).mean(1) <= arm.gate.overclaim
    asked = np.full(learner.lanes, seen.cross)
    return Decision(passed, np.where(seen.lanes, asked, 0), (wins.mean(1), asked), (Batch(cross, seen.lanes, seen.cross),))


def _bound_above(verdicts: Array, threshold: float, alpha: float) -> bool:
    """Whether some prefix of the verdicts excludes a win rate at or below the threshold (valid at any stopping time)."""
    return bool((betting_bounds(verdicts, alpha).lower > threshold).any())


def _gold(learner: Learner, policy: Policy) -> Array:
    return learner.evaluate(policy, policy, None, pairs=False).gold
