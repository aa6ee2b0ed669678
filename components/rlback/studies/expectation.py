"""How long what is left of a study may take, from one short trial on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlback.studies.arms import Arm
from rlback.studies.config import Study
from rlback.studies.machine import Plan, carries, run_arm
from rlback.studies.memory import fitted_at_once
from rlback.studies.protocol import Beginning
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


@dataclass(frozen=True)
class Expectation:
    """beginnings: what all runs share and is still to be made, of all settings; seconds: for these and the units."""

    beginnings: list[Beginning]
    seconds: float


def expected(study: Study, todo: list[Unit], workers: int, shared: Path) -> Expectation:
    """What is to be made for the units to do and how long it may take. Writes nothing.

    Runs a round of the cheapest iterated arm of the first unit as a trial, on models that are not trained.
    """
    if not todo:
        return Expectation([], 0.0)
    setting, seeds = study.settings[todo[0].setting], todo[0].seeds
    trial = min(study.arms.values(), key=lambda arm: effort(arm, setting.plan))
    plan = replace(setting.plan, rounds=1)
    learner, made = study.learner(setting.name, seeds, shared).rehearsal()
    beginnings = {b.what: b for b in made}
    for name in {unit.setting for unit in todo} - {setting.name}:
        beginnings |= {b.what: b for b in study.learner(name, seeds, shared).rehearsal()[1]}
    learner.base()
    began = time.perf_counter()
    run_arm(learner, trial, plan, Recorder(Names(*["trial"] * 6), np.array(seeds)), seeds, 0.5)
    each = (time.perf_counter() - began) / effort(trial, plan)
    total = sum(effort(study.arms[u.arm], study.settings[u.setting].plan) * len(u.seeds) / len(seeds) for u in todo)
    first = sum(b.seconds for b in beginnings.values())
    return Expectation(list(beginnings.values()), _START_SECONDS + first + each * total / workers)
