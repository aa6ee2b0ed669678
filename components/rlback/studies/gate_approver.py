"""A gate of one noisy approver, who is asked again until he says yes or the attempts are spent (science, point 5)."""

from __future__ import annotations

import numpy as np

from rlback.studies.arms import Arm
from rlback.studies.draws import SeedwiseDraws
from rlback.studies.gates import Decision, Evidence
from rlback.studies.protocol import Batch, Learner


def most_labels(arm: Arm, cross: int) -> int:
    """See gates.most_labels."""
    return cross


def decide(learner: Learner, arm: Arm, seen: Evidence) -> Decision:
    """See gates.decide. The approver's own slips count at the gate alone; reward models learn from the annotators' labels."""
    cross = learner.collect(seen.candidate, seen.kept, seen.cross, ("cross", seen.turn))
    wins = learner.wins(cross)
    slips = SeedwiseDraws(seen.seeds, "gate", seen.turn, "slips").random(wins.shape) < (arm.gate.noise or 0.0)
    looks = np.where(slips, 1 - wins, wins).mean(1)
    asked = np.full(learner.lanes, seen.cross)
    batch = Batch(cross, seen.lanes, seen.cross)
    return Decision(looks >= arm.gate.threshold, np.where(seen.lanes, asked, 0), (looks, asked), (batch,))
