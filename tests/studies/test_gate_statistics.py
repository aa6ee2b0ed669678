"""Gates by statistics and of an approver on the bandit: what they charge and what they let through."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.studies import gates
from rlback.studies.arms import library, make_arm
from rlback.studies.bandit import make_learner
from rlback.studies.protocol import Batch, Request
from rlback.worlds.bandit import policies

SEEDS = tuple(range(6))


@pytest.fixture(scope="module")
def world():
    """A learner, the base policy, and a policy that people prefer to it in about nine comparisons of ten."""
    learner = make_learner(Request({"contexts": 2, "actions": 12, "planted": 1}, {"temperature": 0.0}, {}, SEEDS))
    better = policies.optimum_at_kl(learner.bandit.base, learner.bandit.gold, 1.5)
    pairs = learner.collect(learner.base(), learner.base(), 60, ("initial",))
    return learner, better, learner.fit([Batch(pairs, np.ones(6, dtype=bool), 60)], 1, ("fit", 1))


def decided(world, candidate, kept, gate, cross=40):
    learner, _, reward = world
    arm = make_arm("x", {"like": "rollback-until-approved", "gate": gate}, library(), "x")
    one = np.ones(6, dtype=np.int64)
    lanes = np.array([True] * 5 + [False])
    seen = gates.Evidence(lanes, kept, candidate, cross, reward, one, one, None, SEEDS, 1)
    found = gates.decide(learner, arm, seen)
    assert (found.labels <= gates.most_labels(arm, cross)).all()
    assert found.labels[5] == 0  # a lane without a candidate asks for nothing
    return found


def test_a_clear_gain_is_approved_after_few_looks_and_a_clear_loss_never(world):
    learner, better, _ = world
    gate = {"by": "statistics", "ask": {"looks": 5}}
    up, down = decided(world, better, learner.base(), gate), decided(world, learner.base(), better, gate)
    assert up.passed[:5].all()
    assert not down.passed.any()
    assert up.labels[:5].max() < 5 * 40
    assert set(up.labels[:5] % 40) == {0}


def test_what_nobody_gains_from_is_not_approved_and_takes_every_look(world):
    """Equal policies: at alpha .05 and its first share .0185, five lanes are approved with chance below .1; none is."""
    base = world[0].base()
    found = decided(world, base, base, {"by": "statistics", "ask": {"looks": 3}})
    assert not found.passed.any()
    assert found.labels[:5].tolist() == [120] * 5


def test_every_statistic_s_labels_are_charged(world):
    """2 looks of 40 at most, 20 duplicates for the correction, 2 sides of 30 pairs and 20 duplicates, and audits."""
    learner, better, _ = world
    ask = {"looks": 2, "margin": 0.05, "corrected": True, "duplicates": 20, "inside": 30, "drop": 0.9}
    found = decided(world, better, learner.base(), {"by": "statistics", "overclaim": 0.5, "ask": ask})
    assert set(found.labels[:5]) <= {look * 40 + 20 + 2 * 50 for look in (1, 2)}
    audited = decided(world, better, learner.base(), {"by": "statistics", "ask": {"fault_rate": 0.5}})
    # log(.0185) / log(.5) = 5.8: six audits without a fault, fewer where one was found, and then no approval.
    audits = audited.labels[:5] - 40
    assert audits.max() == 6
    assert not audited.passed[:5][audits < 6].any()


def test_a_faulty_candidate_is_refused_however_it_wins(world):
    """A policy of planted items alone, against itself made worse: G1 alone would let it through."""
    learner = world[0]
    bad = np.log(np.where(learner.bandit.planted, 1.0, 1e-12))
    audited = decided(world, policies.log_softmax(bad), learner.base(), {"by": "statistics", "ask": {"fault_rate": 0.3}})
    assert not audited.passed.any()
    assert (audited.labels[:5] == 40 + 1).all()  # the first audit finds it


def test_predictions_make_few_labels_go_further_and_stay_unbiased(world):
    learner, better, _ = world
    found = decided(world, better, learner.base(), {"by": "statistics", "ask": {"test": "powered"}})
    assert found.passed[:5].all()
    assert found.labels[:5].tolist() == [40] * 5
    back = decided(world, learner.base(), better, {"by": "statistics", "ask": {"test": "powered"}})
    assert not back.passed.any()


def test_an_approver_without_noise_sees_the_verdicts_and_one_with_half_sees_a_coin(world):
    learner, better, _ = world
    clear = decided(world, better, learner.base(), {"by": "approver", "noise": 0.0}, cross=400)
    truth = learner.preference(better, learner.base())
    assert clear.win_rate[0][:5] == pytest.approx(truth[:5], abs=0.08)
    coin = decided(world, better, learner.base(), {"by": "approver", "noise": 0.5}, cross=400)
    assert coin.win_rate[0] == pytest.approx(np.full(6, 0.5), abs=0.1)
    assert clear.labels[:5].tolist() == [400] * 5
