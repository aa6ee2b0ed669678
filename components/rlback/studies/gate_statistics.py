"""A gate by the statistics of maths/gate.py: improvement, honesty, agreement and tail, from labels it asks for itself.

The cross labels come in looks of equal size, each on fresh prompts; a lane that is decided asks for no more. What is
still open after the last look is declined.
"""

from __future__ import annotations

import numpy as np

from rlback.maths import gate as maths
from rlback.maths.sequential import agreement_seen, attempt_alpha, label_accuracy_from_duplicates, zero_failures_needed
from rlback.studies.arms import Arm, ArmAsk
from rlback.studies.gates import Decision, Evidence
from rlback.studies.protocol import Array, Batch, Counts, Key, Learner, Policy

#: Beyond any number of rounds a study has: for the most that audits may come to.
_ROUNDS = 100


def most_labels(arm: Arm, cross: int) -> int:
    """See gates.most_labels."""
    ask = _ask(arm)
    sides = 2 * (ask.inside + ask.duplicates) if ask.drop is not None else 0
    audits = zero_failures_needed(ask.fault_rate, attempt_alpha(arm.gate.alpha, _ROUNDS, arm.attempts)) if ask.fault_rate else 0
    return ask.looks * cross + (ask.duplicates if ask.corrected else 0) + sides + audits


def decide(learner: Learner, arm: Arm, seen: Evidence) -> Decision:
    """See gates.decide."""
    ask, turn = _ask(arm), seen.turn
    n, labels = learner.lanes, np.zeros(learner.lanes, dtype=np.int64)
    open_, passed = seen.lanes.copy(), np.zeros(learner.lanes, dtype=bool)
    quality = np.ones(n)
    wins, claims, batches = np.zeros((n, 0)), np.zeros((n, 0)), []
    skills, faults = [_skills(learner, ask, seen, side) for side in ("candidate", "kept")], _faults(learner, arm, seen)
    labels = labels + np.where(open_, 2 * (ask.inside + ask.duplicates) if ask.drop is not None else 0, 0)
    labels = labels + np.where(open_, [len(f) if f is not None else 0 for f in faults], 0)
    won, asked = np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    for look in range(ask.looks):
        cross = learner.collect(seen.candidate, seen.kept, seen.cross, ("cross", turn, "look", look))
        batches.append(Batch(cross, open_.copy(), seen.cross))
        wins = np.concatenate([wins, learner.wins(cross)], 1)
        expected = np.full((n, seen.cross), 0.5) if seen.reward is None else learner.predicted(cross, seen.reward)
        claims = np.concatenate([claims, expected], 1)
        labels, asked = labels + np.where(open_, seen.cross, 0), asked + np.where(open_, seen.cross, 0)
        won = np.where(open_, wins.mean(1), won)
        if look == 0 and ask.corrected:
            same = (learner.wins(learner.again(cross, ("again", turn))) == learner.wins(cross))[:, : ask.duplicates].mean(1)
            quality = np.array([label_accuracy_from_duplicates(share) for share in same])
            labels = labels + np.where(open_, min(ask.duplicates, seen.cross), 0)
        more = _unlabelled(learner, ask, seen)
        for lane in np.flatnonzero(open_):
            rule = maths.Rule(
                arm.gate.alpha, agreement_seen(0.5 + ask.margin, quality[lane]) - 0.5, arm.gate.overclaim, ask.drop,
                ask.fault_rate,
            )  # fmt: skip
            found = maths.Evidence(
                wins[lane], claims[lane], None if more is None else more[lane], skills[0][lane], skills[1][lane], faults[lane]
            )
            verdict = _verdict(found, rule, int(seen.round[lane]), int(seen.attempt[lane]))
            passed[lane], open_[lane] = verdict == "accept", verdict == "more labels"
        if not open_.any():
            break
    return Decision(passed, labels, (won, asked), tuple(batches))


def _ask(arm: Arm) -> ArmAsk:
    if arm.gate.ask is None:
        raise ValueError("a gate by statistics was given nothing to ask for")
    return arm.gate.ask


def _verdict(evidence: maths.Evidence, rule: maths.Rule, checkpoint: int, attempt: int) -> maths.Verdict:
    if rule.drop is not None and (evidence.candidate is None or evidence.kept is None):
        return "more labels"  # duplicates that agree no better than coins: there is no ceiling to judge by
    return maths.judge(evidence, rule, checkpoint=checkpoint, attempt=attempt)[0]


def _skills(learner: Learner, ask: ArmAsk, seen: Evidence, side: str) -> list[maths.Skill | None]:
    """Of each lane: how well the reward model agrees with labels on a policy's own pairs, relative to their ceiling."""
    if ask.drop is None or seen.reward is None:
        return [None] * learner.lanes
    policy: Policy = getattr(seen, side)
    key: Key = ("inside", seen.turn, side)
    pairs = learner.collect(policy, policy, ask.inside, key)
    same = (learner.wins(learner.again(pairs, (*key, "again"))) == learner.wins(pairs))[:, : ask.duplicates]
    agrees = 0.5 * (1 + np.sign(learner.predicted(pairs, seen.reward) - 0.5) * np.sign(learner.wins(pairs) - 0.5))
    return [_skill(a, s) for a, s in zip(agrees, same, strict=True)]


def _skill(agrees: Array, same: Array) -> maths.Skill | None:
    try:
        return maths.skill(agrees, same.astype(float))
    except ValueError:
        return None


def _faults(learner: Learner, arm: Arm, seen: Evidence) -> list[list[bool] | None]:
    """Of each lane: audits of the samples scored highest, up to the first clear fault or as many as the rule needs."""
    rate = _ask(arm).fault_rate
    if rate is None or seen.reward is None:
        return [None] * learner.lanes
    alphas = [attempt_alpha(arm.gate.alpha, int(c), int(a)) for c, a in zip(seen.round, seen.attempt, strict=True)]
    needed: Counts = np.array([zero_failures_needed(rate, alpha) for alpha in alphas])
    found = learner.faults(seen.candidate, seen.reward, int(needed.max()), ("audit", seen.turn))
    return [[bool(f) for f in row[: _length(row[:n])]] for row, n in zip(found, needed, strict=True)]


def _length(row: Array) -> int:
    return int(row.argmax()) + 1 if row.any() else len(row)


def _unlabelled(learner: Learner, ask: ArmAsk, seen: Evidence) -> Array | None:
    if ask.test != "powered" or seen.reward is None:
        return None
    return learner.predicted_wins(seen.candidate, seen.kept, seen.reward, ask.unlabelled, ("unlabelled", seen.turn))
