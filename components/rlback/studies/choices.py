"""Which step checkpoint of an attempt becomes its candidate, and what choosing costs in labels (arms.ArmChoice)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from rlback.studies.arms import ArmChoice
from rlback.studies.protocol import Array, Batch, Counts, Key, Learner, Mask, Policy, StepCheckpoint, no_exposure

#: Told of every step checkpoint and the lanes that still move.
Seen = Callable[[StepCheckpoint, Mask], None]


@dataclass
class Candidate:
    """The end of an attempt. step, exposure: of the chosen policy; spent: updates made, which may be more. last: where
    the optimiser stopped. labels: asked for by choosing (gate) or while optimising (training), (lanes,). passed
    (lanes,): what the choice itself decided; win_rate: of the chosen one against the kept policy, if it was measured.
    evidence: the labels, for later training.
    """

    policy: Policy
    step: Counts
    exposure: Array
    diverged: Mask
    last: Policy
    spent: Counts
    exposure_spent: Array
    labels_gate: Counts
    labels_training: Counts
    passed: Mask
    win_rate: tuple[Array, Counts] | None = None
    evidence: list[Batch] = field(default_factory=list)


def choose(
    learner: Learner, choice: ArmChoice, path: Iterator[StepCheckpoint], start: Policy, kept: Policy, steps: Counts,
    lanes: Mask, kappa: float, key: Key, seen: Seen,
) -> Candidate:  # fmt: skip
    """Walks along `path` and picks. `lanes`: those under way; `steps` (lanes,): how far each one's segment goes."""
    if choice.by == "labelled":
        return _stopped_by_labels(learner, choice, path, start, lanes, key, seen)
    if choice.by == "ladder":
        return _ladder(learner, choice, path, start, kept, steps, lanes, key, seen)
    if choice.by == "oracle":
        return _best_by_gold(learner, path, start, lanes, seen)
    return _end(learner, path, start, steps, lanes, kappa, seen)


def _nothing(learner: Learner, start: Policy) -> Candidate:
    zero = np.zeros(learner.lanes, dtype=np.int64)
    none = no_exposure(learner.lanes)
    off = np.zeros(learner.lanes, dtype=bool)
    return Candidate(start, zero, none, off, start, zero, none, zero, zero, ~off)


def _picked(learner: Learner, mask: Mask, found: Candidate, at: StepCheckpoint) -> Candidate:
    """The candidate moved to a checkpoint in the lanes of the mask."""
    return replace(
        found,
        policy=learner.select(mask, at.policy, found.policy),
        step=np.where(mask, at.done, found.step),
        exposure=np.where(mask[:, None, None], at.exposure, found.exposure),
        diverged=np.where(mask, at.diverged, found.diverged),
    )


def _spent(learner: Learner, mask: Mask, found: Candidate, at: StepCheckpoint) -> Candidate:
    return replace(
        found,
        last=learner.select(mask, at.policy, found.last),
        spent=np.where(mask, at.done, found.spent),
        exposure_spent=np.where(mask[:, None, None], at.exposure, found.exposure_spent),
        labels_training=np.where(mask, at.labels, found.labels_training),
    )


def _end(
    learner: Learner, path: Iterator[StepCheckpoint], start: Policy, steps: Counts, lanes: Mask, kappa: float, seen: Seen
) -> Candidate:
    """The end of the segment, or the first checkpoint at or beyond kappa of it; all of it is spent."""
    found = _nothing(learner, start)
    open_ = lanes.copy()
    for at in path:
        seen(at, lanes & (at.done > found.spent))
        found = _spent(learner, lanes, found, at)
        there = open_ & ((at.done >= kappa * steps - 1e-9) | at.diverged)
        found = _picked(learner, there, found, at)
        open_ &= ~there
    # A lane that diverged beyond what it keeps has diverged all the same: its lookahead cannot be labelled.
    return replace(found, diverged=found.diverged | (lanes & ~np.isfinite(found.exposure_spent).all((-1, -2))))


def _best_by_gold(learner: Learner, path: Iterator[StepCheckpoint], start: Policy, lanes: Mask, seen: Seen) -> Candidate:
    found = _nothing(learner, start)
    best = learner.evaluate(start, start, None, pairs=False).gold
    for at in path:
        seen(at, lanes & (at.done > found.spent))
        found = _spent(learner, lanes, found, at)
        gold = learner.evaluate(at.policy, start, None, pairs=False).gold
        higher = lanes & ~at.diverged & (gold > best)
        best = np.where(higher, gold, best)
        found = _picked(learner, higher, found, at)
    return found


def _stopped_by_labels(
    learner: Learner, choice: ArmChoice, path: Iterator[StepCheckpoint], start: Policy, lanes: Mask, key: Key, seen: Seen
) -> Candidate:
    found = _nothing(learner, start)
    running, losses = lanes.copy(), np.zeros(learner.lanes, dtype=np.int64)
    for rung, at in enumerate(path):
        moved = running & (at.done > found.spent)
        seen(at, moved)
        found = _spent(learner, running, found, at)
        labels = learner.collect(at.policy, found.policy, choice.labels, (*key, "stop", rung))
        found.evidence.append(Batch(labels, moved, choice.labels))
        won = learner.wins(labels).mean(1) >= choice.threshold
        found = replace(found, labels_gate=found.labels_gate + np.where(moved, choice.labels, 0))
        found = _picked(learner, moved & won & ~at.diverged, found, at)
        losses = np.where(won, 0, losses + moved)
        running &= ~at.diverged & (losses < choice.patience)
        if not running.any():
            break
    return found


def _ladder(
    learner: Learner, choice: ArmChoice, path: Iterator[StepCheckpoint], start: Policy, kept: Policy, steps: Counts,
    lanes: Mask, key: Key, seen: Seen,
) -> Candidate:  # fmt: skip
    found = _nothing(learner, start)
    best, reached = np.full(learner.lanes, -1.0), np.zeros(learner.lanes, dtype=np.int64)
    for at in path:
        seen(at, lanes & (at.done > found.spent))
        moved = lanes & (at.done > found.spent)
        found = _spent(learner, lanes, found, at)
        # Rung k of r is the first checkpoint at or beyond k/r of the lane's own segment.
        here = (at.done * choice.rungs) // np.maximum(steps, 1)
        on_rung = moved & (here > reached)
        if not on_rung.any():
            continue
        reached = np.where(on_rung, here, reached)
        labels = learner.collect(at.policy, kept, choice.labels, (*key, "rung", int(at.done.max())))
        found.evidence.append(Batch(labels, on_rung, choice.labels))
        found = replace(found, labels_gate=found.labels_gate + np.where(on_rung, choice.labels, 0))
        share = learner.wins(labels).mean(1)
        higher = on_rung & (np.ones_like(on_rung) if choice.keep_last else (share > best) & ~at.diverged)
        best = np.where(higher, share, best)
        found = _picked(learner, higher, found, at)
    if choice.keep_last:
        return replace(found, win_rate=(best, np.full(learner.lanes, choice.labels)))
    passed, n = lanes & (best >= choice.threshold), np.full(learner.lanes, choice.labels)
    if choice.fresh:
        labels = learner.collect(found.policy, kept, choice.fresh, (*key, "fresh"))
        found.evidence.append(Batch(labels, passed, choice.fresh))
        found = replace(found, labels_gate=found.labels_gate + np.where(passed, choice.fresh, 0))
        best, n = np.where(passed, learner.wins(labels).mean(1), best), np.where(passed, choice.fresh, n)
        passed = passed & (best >= choice.threshold)
    return replace(found, passed=passed | ~lanes, win_rate=(np.where(best < 0, np.nan, best), n))
