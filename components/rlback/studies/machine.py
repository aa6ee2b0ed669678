"""The one machine that runs every arm, for all lanes of a learner at once.

Each turn of its loop is one attempt in every lane that is still under way. Lanes are at rounds and attempts of their
own; where they differ, masks decide. What is charged and when: initial labels before the first attempt; what a choice
or a gate asks for before the decision; labels for the next reward model after it, and only in lanes that go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from rlback.studies import gates
from rlback.studies.arms import Arm
from rlback.studies.choices import Candidate, choose
from rlback.studies.memory import Memory, fits, learns_from_labels
from rlback.studies.protocol import (
    Array,
    Batch,
    Counts,
    Evaluation,
    Learner,
    Mask,
    Policy,
    RewardModel,
    Segment,
    StepCheckpoint,
    no_exposure,
)  # fmt: skip
from rlback.studies.recorder import Recorder

#: Halvings of the segment that `exhausted: shrink` tries before it stops.
MOST_HALVINGS = 4


@dataclass(frozen=True)
class Plan:
    """What a study gives all arms alike. rounds: segments to go, one after the other; segment_steps: optimiser steps of
    one; segment_length: its length, the square root of a KL; every: steps between recorded checkpoints. initial,
    inside, cross: labels where the arm names no number of its own. points: record step rows at all.
    """

    rounds: int
    segment_steps: int
    segment_length: float
    every: int
    initial: int
    inside: int
    cross: int
    points: bool = True

    def labels(self, arm: Arm) -> tuple[int, int, int]:
        """Initial, inside and cross labels of an arm."""
        own = arm.labels
        inside = self.inside if own.inside is None else own.inside
        cross = self.cross if own.cross is None else own.cross
        initial = self.initial if own.initial is None else own.initial
        if own.up_front:
            initial += (self.rounds - 1) * (self.inside + self.cross)
        return (initial if learns_from_labels(arm) else 0), inside, cross

    def rounds_of(self, arm: Arm) -> int:
        """Candidates an arm keeps before it is done: with kappa below 1 it needs more to go as far."""
        if arm.one_round:
            return 1
        return arm.rounds or max(1, round(self.rounds / (arm.kappa * arm.segments)))


@dataclass
class _Lanes:
    """Where each lane is. Arrays (lanes,); policies hold all lanes. keeps[c] is the policy after c rounds."""

    live: Mask
    round: Counts
    attempt: Counts
    attempts: Counts
    labels_reward: Counts
    labels_gate: Counts
    updates: Counts
    scale: Array
    halvings: Counts
    exposure_all: Array
    kept: Policy
    kept_exposure: Array
    tip: Policy
    tip_exposure: Array
    keeps: list[tuple[Policy, Array]] = field(default_factory=list)

    def costs(self) -> dict[str, Array]:
        return {
            "labels_reward": self.labels_reward.copy(), "labels_gate": self.labels_gate.copy(),
            "labels": self.labels_reward + self.labels_gate, "updates": self.updates.copy(),
        }  # fmt: skip


def run_arm(
    learner: Learner, arm: Arm, plan: Plan, recorder: Recorder, seeds: tuple[int, ...], rate: float | None = None
) -> None:
    """Runs one arm to its end in every lane; rows go to `recorder`. rate: of a random gate that takes another arm's.

    Raises:
        ConfigError: the learner lacks the arm's optimiser or scorer (see `unsupported`).
    """
    _Run(learner, arm, plan, recorder, seeds, arm.gate.rate if rate is None else rate).all()


def unsupported(learner: Learner, arm: Arm) -> str | None:
    """What the learner lacks for this arm, in words; None if nothing."""
    if arm.method not in learner.methods:
        return f"the world has no optimiser {arm.method}"
    if arm.score_by != "reward_model" and arm.score_by not in learner.scorers:
        return f"the world has no scorer {arm.score_by}"
    if arm.swap is not None and not hasattr(learner, "swapped"):
        return "the world knows no oracles to swap in"
    if arm.gate.by == "statistics" and not hasattr(learner, "again"):
        return "the world cannot have comparisons labelled twice, as a gate by statistics asks"
    if fits(arm) and arm.reward.mode not in learner.combines:
        return f"the world cannot join reward models by {arm.reward.mode} (it has {', '.join(sorted(learner.combines))})"
    return None


def carries(arm: Arm) -> float:
    """Share of the distance travelled so far that the next attempt starts with."""
    return {"base": 0.0, "interpolated": arm.eta}.get(arm.start, 1.0)


class _Run:
    def __init__(
        self, learner: Learner, arm: Arm, plan: Plan, recorder: Recorder, seeds: tuple[int, ...], rate: float | None
    ) -> None:
        if arm.swap is not None:
            learner = learner.swapped(arm.swap)
        self.learner, self.arm, self.plan, self.recorder, self.seeds, self.rate = learner, arm, plan, recorder, seeds, rate
        self.rounds = plan.rounds_of(arm)
        self.initial, self.inside, self.cross = plan.labels(arm)
        n, base = learner.lanes, learner.base()
        zero = np.zeros(n, dtype=np.int64)
        self.base = base
        self.at = _Lanes(
            live=np.ones(n, dtype=bool), round=zero + 1, attempt=zero + 1, attempts=zero, labels_reward=zero,
            labels_gate=zero, updates=zero, scale=np.ones(n), halvings=zero, exposure_all=no_exposure(n), kept=base,
            kept_exposure=no_exposure(n), tip=base, tip_exposure=no_exposure(n), keeps=[(base, no_exposure(n))],
        )  # fmt: skip
        self.memory = Memory(learner, arm)

    def all(self) -> None:
        """From the base policy until no lane is under way."""
        lanes = np.ones(self.learner.lanes, dtype=bool)
        self._record_kept(lanes, self.at.kept, 0, "kept", np.zeros_like(lanes), np.zeros_like(self.at.round), (0, 0), None)
        if self.initial:
            base_pairs = self.learner.collect(self.base, self.base, self.initial, ("initial",))
            self.memory.add([Batch(base_pairs, lanes, self.initial)])
            self.at = replace(self.at, labels_reward=self.at.labels_reward + self.initial)
        self.memory.refit(lanes, first=True)
        while self.at.live.any():
            self._attempt()

    def _attempt(self) -> None:
        at, arm = self.at, self.arm
        start, start_exposure = self._start()
        steps = self._steps()
        at.live &= self._affordable(steps)
        if not at.live.any():
            return
        lanes = at.live.copy()
        steps = np.where(lanes, steps, 0)
        found = self._candidate(start, start_exposure, steps, lanes)
        self.at = at = replace(
            at,
            attempts=at.attempts + lanes,
            updates=at.updates + np.where(lanes, found.spent, 0),
            exposure_all=at.exposure_all + np.where(lanes[:, None, None], found.exposure_spent, 0.0),
            labels_gate=at.labels_gate + np.where(lanes, found.labels_gate, 0),
            labels_reward=at.labels_reward + np.where(lanes, found.labels_training, 0),
        )
        lineage = start_exposure + found.exposure
        decided = self._decide(found, lanes)
        keep = lanes & decided.passed & ~found.diverged
        spent = arm.attempts == at.attempt
        if arm.exhausted == "keep":
            keep |= lanes & ~decided.passed & spent & ~found.diverged
        self._record(lanes, keep, found, start, lineage, decided.win_rate)
        self._move(lanes, keep, found, lineage, spent)
        self._learn(lanes, keep, found, decided.batches)

    def _start(self) -> tuple[Policy, Array]:
        at, arm = self.at, self.arm
        if arm.start == "base":
            return self.base, no_exposure(self.learner.lanes)
        if arm.start == "interpolated":
            return self.learner.interpolate(self.base, at.kept, arm.eta), arm.eta * at.kept_exposure
        return (at.tip, at.tip_exposure) if arm.start == "candidate" else (at.kept, at.kept_exposure)

    def _steps(self) -> Counts:
        """Optimiser steps to go in each lane."""
        arm, plan = self.arm, self.plan
        if arm.one_round:
            return np.full(self.learner.lanes, plan.rounds * plan.segment_steps)
        done = self.at.round - 1
        ahead = done + 1 - carries(arm) * done if arm.travel == "full" else np.ones_like(done)
        wanted = ahead * arm.segments * plan.segment_steps * self.at.scale
        return np.maximum(np.rint(wanted), 1).astype(np.int64)

    def _affordable(self, steps: Counts) -> Mask:
        """Lanes that could afford the attempt at the most it may cost before its decision."""
        at, arm, cap = self.at, self.arm, self.arm.budget
        labels = np.full(self.learner.lanes, gates.most_labels(arm, self.cross))
        if arm.choice.by == "ladder":
            labels = labels + arm.choice.rungs * arm.choice.labels + arm.choice.fresh
        if arm.choice.by == "labelled":
            labels = labels + arm.choice.labels * -(-steps // self._every())
        if arm.method == "direct":
            labels = labels + arm.labels_per_step * steps
        within = np.ones(self.learner.lanes, dtype=bool)
        if cap.labels is not None:
            within &= at.labels_reward + at.labels_gate + labels <= cap.labels
        if cap.updates is not None:
            within &= at.updates + steps <= cap.updates
        if cap.attempts is not None:
            within &= at.attempts < cap.attempts
        return within

    def _every(self) -> int:
        return self.plan.every

    def _path(self, start: Policy, steps: Counts, reward: RewardModel | None) -> Iterator[StepCheckpoint]:
        arm, learner, plan = self.arm, self.learner, self.plan
        size = plan.segment_length / plan.segment_steps
        segment = Segment(steps, self._every(), size, arm.beta, arm.reference)
        turn = int(self.at.attempts.max())
        key = ("steps", turn if arm.reseed else int(self.at.round.max()))
        if arm.method == "direct":
            return learner.optimise_on_people(start, arm.labels_per_step, segment, key)
        if arm.method == "dpo":
            return learner.optimise_on_pairs(start, self.memory.chosen(), segment, arm.temperature, key)
        return learner.optimise(start, reward, segment, key)

    def _candidate(self, start: Policy, start_exposure: Array, steps: Counts, lanes: Mask) -> Candidate:
        learner, arm, at = self.learner, self.arm, self.at
        reward = self.memory.reward
        if arm.method == "best_of_n":
            chosen = learner.best_of_n(start, reward, arm.n)
            none, zero = no_exposure(learner.lanes), np.zeros(learner.lanes, dtype=np.int64)
            off = np.zeros(learner.lanes, dtype=bool)
            return Candidate(chosen, zero, none, off, chosen, zero, none, zero, zero, ~off)

        def seen(point: StepCheckpoint, moved: Mask) -> None:
            if not self.plan.points:
                return
            costs = at.costs()
            costs["updates"] = costs["updates"] + point.done
            costs["labels_reward"] = costs["labels_reward"] + point.labels
            costs["labels"] = costs["labels"] + point.labels
            self.recorder.add(
                moved, "step", learner.evaluate(point.policy, start, reward, pairs=False),
                exposure_kept=start_exposure + point.exposure, exposure_all=at.exposure_all + point.exposure,
                diverged=point.diverged, decisions="none", costs=costs,
                place={"round": at.round, "attempt": at.attempt, "step": point.done},
            )  # fmt: skip

        path = self._path(start, steps, reward)
        key = ("choice", int(at.attempts.max()))
        return choose(learner, arm.choice, path, start, at.kept, steps, lanes, arm.kappa, key, seen)

    def _decide(self, found: Candidate, lanes: Mask) -> gates.Decision:
        at, learner = self.at, self.learner
        evidence = gates.Evidence(
            lanes, at.kept, found.policy, self.cross, self.memory.reward, at.round, at.attempt, self.rate, self.seeds,
            int(at.attempts.max()),
        )  # fmt: skip
        decided = gates.decide(learner, self.arm, evidence)
        at.labels_gate = at.labels_gate + np.where(lanes, decided.labels, 0)
        return replace(decided, passed=found.passed & decided.passed, win_rate=decided.win_rate or found.win_rate)

    def _move(self, lanes: Mask, keep: Mask, found: Candidate, lineage: Array, spent: Mask) -> None:
        """Keeps or rolls back, and ends lanes that are done, have given up or have diverged."""
        at, arm, learner = self.at, self.arm, self.learner
        wide = keep[:, None, None]
        at.kept = learner.select(keep, found.policy, at.kept)
        at.kept_exposure = np.where(wide, lineage, at.kept_exposure)
        at.tip = learner.select(lanes, found.policy, at.tip)
        at.tip_exposure = np.where(lanes[:, None, None], lineage, at.tip_exposure)
        if len(at.keeps) <= int(at.round.max()):
            at.keeps.append(at.keeps[-1])
        for c in np.unique(at.round[keep]):
            policy, exposure = at.keeps[c]
            here = keep & (at.round == c)
            at.keeps[c] = (learner.select(here, at.kept, policy), np.where(here[:, None, None], at.kept_exposure, exposure))
        at.round, at.attempt = at.round + keep, np.where(keep, 1, at.attempt + lanes)
        at.scale, at.halvings = np.where(keep, 1.0, at.scale), np.where(keep, 0, at.halvings)
        given_up = lanes & ~keep & spent
        if arm.exhausted == "shrink":
            again = given_up & (at.halvings < MOST_HALVINGS)
            at.scale, at.halvings = np.where(again, at.scale / 2, at.scale), at.halvings + again
            at.attempt, given_up = np.where(again, 1, at.attempt), given_up & ~again
        elif arm.exhausted == "back":
            back = given_up & (at.round > 1)
            self._one_back(back)
            given_up &= ~back
        at.live &= ~(given_up | (at.round > self.rounds) | (lanes & found.diverged))

    def _one_back(self, back: Mask) -> None:
        at, learner = self.at, self.learner
        at.round, at.attempt = at.round - back, np.where(back, 1, at.attempt)
        for c in np.unique(at.round[back]):
            policy, exposure = at.keeps[c - 1]
            here = back & (at.round == c)
            at.kept = learner.select(here, policy, at.kept)
            at.kept_exposure = np.where(here[:, None, None], exposure, at.kept_exposure)

    def _learn(self, lanes: Mask, keep: Mask, found: Candidate, cross: tuple[Batch, ...]) -> None:
        """Labels for the next attempt in the lanes that go on, and a new reward model from them."""
        at, arm, learner = self.at, self.arm, self.learner
        if not learns_from_labels(arm) or not arm.refresh:
            return
        going = lanes & at.live
        feedback = {"every": going, "kept": going & keep, "declined": going & ~keep, "none": going & False}[arm.labels.feedback]
        turn = int(at.attempts.max())
        batches = [Batch(b.labels, b.lanes & going, b.count) for b in (*found.evidence, *cross)]
        if feedback.any():
            if self.inside:
                pairs = learner.collect(found.last, found.last, self.inside, ("inside", turn))
                batches.append(Batch(pairs, feedback, self.inside))
                at.labels_reward = at.labels_reward + np.where(feedback, self.inside, 0)
            if self.cross and not cross:
                pairs = learner.collect(found.last, self.at_before, self.cross, ("cross", turn))
                batches.append(Batch(pairs, feedback, self.cross))
                at.labels_reward = at.labels_reward + np.where(feedback, self.cross, 0)
        batches = [b for b in batches if b.lanes.any()]
        if batches:
            self.memory.add(batches)
            self.memory.refit(np.logical_or.reduce([b.lanes for b in batches]))

    def _record(
        self, lanes: Mask, keep: Mask, found: Candidate, start: Policy, lineage: Array, win_rate: tuple[Array, Counts] | None
    ) -> None:
        at, learner = self.at, self.learner
        self.at_before = at.kept
        decisions = np.where(keep, "kept", "declined")
        measured = learner.evaluate(found.policy, start, self.memory.reward, pairs=True)
        win_true = learner.preference(found.policy, at.kept) if hasattr(learner, "preference") else None
        place = {"round": at.round, "attempt": at.attempt, "step": found.step}
        self.recorder.add(
            lanes, "candidate", measured, exposure_kept=lineage, exposure_all=at.exposure_all, diverged=found.diverged,
            decisions=decisions, costs=at.costs(), place=place, win_rate=win_rate, win_true=win_true,
        )  # fmt: skip
        after = learner.select(keep, found.policy, at.kept)
        exposure = np.where(keep[:, None, None], lineage, at.kept_exposure)
        self._record_kept(
            lanes, after, exposure, decisions, found.diverged, np.where(keep, found.step, 0), (at.round, at.attempt), win_rate
        )

    def _record_kept(
        self, lanes: Mask, kept: Policy, exposure: Array | int, decisions: Array | str, diverged: Mask, step: Counts,
        place: tuple[Array | int, Array | int], win_rate: tuple[Array, Counts] | None,
    ) -> None:  # fmt: skip
        at, learner = self.at, self.learner
        measured: Evaluation = learner.evaluate(kept, kept, self.memory.reward, pairs=True)
        lineage = no_exposure(learner.lanes) if isinstance(exposure, int) else exposure
        self.recorder.add(
            lanes, "kept", measured, exposure_kept=lineage, exposure_all=at.exposure_all, diverged=diverged,
            decisions=decisions, costs=at.costs(), place={"round": place[0], "attempt": place[1], "step": step},
            win_rate=win_rate,
        )  # fmt: skip
