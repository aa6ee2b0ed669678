"""What an arm has learned so far: labels by collection, and the reward model fitted to them (arms.ArmReward)."""

from __future__ import annotations

import numpy as np

from rlback.studies.arms import Arm, ArmReward
from rlback.studies.protocol import Batch, Counts, Learner, Mask, RewardModel


def fits(arm: Arm) -> bool:
    """Whether it fits reward models."""
    return arm.score_by == "reward_model" and arm.method in ("rl", "best_of_n")


def learns_from_labels(arm: Arm) -> bool:
    """Whether labels collected before or between attempts are of use to it."""
    return fits(arm) or arm.method == "dpo"


def fitted_at_once(how: ArmReward) -> int:
    """Models fitted at a time."""
    return how.members if how.over == "members" and how.mode != "last" else 1


class Memory:
    """Labels of every collection, and the scorer in use. With an automated scorer there is nothing to fit."""

    def __init__(self, learner: Learner, arm: Arm) -> None:
        self.learner, self.arm = learner, arm
        self.collections: list[list[Batch]] = []
        self.reward: RewardModel | None = None
        self._models: list[tuple[RewardModel, Mask]] = []
        self._fitted: RewardModel | None = None
        if arm.score_by != "reward_model":
            self.reward = learner.scorer(arm.score_by)

    def add(self, batches: list[Batch]) -> None:
        """The labels of one collection; they may be of several kinds and in different lanes."""
        self.collections.append(batches)

    def refit(self, lanes: Mask, *, first: bool = False) -> None:
        """A new reward model in the lanes of the mask, the old one elsewhere."""
        arm, learner = self.arm, self.learner
        if not fits(arm) or not self.collections:
            return
        how, key = arm.reward, ("fit", len(self.collections))
        sample = self._last_counts() if how.data == "sampled" and not first else None
        fitted = learner.fit(self.chosen(), fitted_at_once(how), key, sample=sample)
        if how.over == "rounds":
            self._models.append((fitted, lanes))
            self.reward = learner.combine([m for m, _ in self._models], [on for _, on in self._models], how.mode, how.weight)
            return
        if self._fitted is not None:
            fitted = learner.select_models(lanes, fitted, self._fitted)
        self._fitted = fitted
        on = np.ones(learner.lanes, dtype=bool)
        self.reward = fitted if how.mode == "last" else learner.combine([fitted], [on], how.mode, how.weight)

    def chosen(self) -> list[Batch]:
        """The labels a fit (or DPO) sees: each lane's last collection, or all of them."""
        if self.arm.reward.data != "last":
            return [batch for batches in self.collections for batch in batches]
        later = np.zeros(self.learner.lanes, dtype=bool)
        found: list[Batch] = []
        for batches in reversed(self.collections):
            mine = [Batch(b.labels, b.lanes & ~later, b.count) for b in batches]
            found += [b for b in mine if b.lanes.any()]
            for b in batches:
                later = later | b.lanes
        return found

    def _last_counts(self) -> Counts:
        """Labels of each lane's last collection, (lanes,)."""
        counts = np.zeros(self.learner.lanes, dtype=np.int64)
        for batches in self.collections:
            here = sum((np.where(b.lanes, b.count, 0) for b in batches), np.zeros_like(counts))
            counts = np.where(here > 0, here, counts)
        return counts
