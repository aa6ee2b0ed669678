"""How long what is left of a study may take, from one short trial on this machine."""

from __future__ import annotations

import time

import numpy as np

from rlback.studies.arms import Arm
from rlback.studies.config import Study
from rlback.studies.machine import Plan, carries, run_arm
from rlback.studies.memory import fitted_at_once
from rlback.studies.recorder import Names, Recorder
from rlback.studies.units import Unit

#: Attempts that a gated round takes, in the mean over what was tried; a guess is enough here.
_ATTEMPTS = 1.4
#: Of a worker process, to start.
_START_SECONDS = 3.0


def effort(arm: Arm, plan: Plan) -> float:
    """Optimiser steps and refits (each as dear as ten steps, times members) that an arm is expected to take."""
    if arm.one_round:
        return plan.rounds * plan.segment_steps + 10.0 * fitted_at_once(arm.reward)
    attempts = plan.rounds_of(arm) * (arm.attempts if arm.gate.by == "lookahead" else _ATTEMPTS if arm.attempts > 1 else 1)
    reach = 1 + (1 - carries(arm)) * (plan.rounds - 1) / 2 if arm.travel == "full" else 1
    return attempts * (reach * arm.segments * plan.segment_steps + 10.0 * fitted_at_once(arm.reward))


def expected_seconds(study: Study, todo: list[Unit], workers: int) -> float:
    """Wall-clock seconds for the units to do. Runs the cheapest iterated arm of the first of them as a trial."""
    if not todo:
        return 0.0
    setting, seeds = study.settings[todo[0].setting], todo[0].seeds
    trial = min(study.arms.values(), key=lambda arm: effort(arm, setting.plan))
    learner = study.learner(setting.name, seeds)
    learner.base()
    began = time.perf_counter()
    run_arm(learner, trial, setting.plan, Recorder(Names(*["trial"] * 6), np.array(seeds)), seeds, 0.5)
    each = (time.perf_counter() - began) / effort(trial, setting.plan)
    total = sum(effort(study.arms[u.arm], study.settings[u.setting].plan) * len(u.seeds) / len(seeds) for u in todo)
    return _START_SECONDS + each * total / workers
