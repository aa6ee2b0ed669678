"""The bandit keeps the rules of a learner (studies/protocol.py)."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.studies.bandit import make_learner
from rlback.studies.protocol import INTEGRATED, Batch, Request, Segment
from rlback.worlds.bandit.policies import log_softmax

WORLD = {"contexts": 3, "actions": 12, "warmth": 1.0, "planted": 1}


def learner(*seeds: int):
    return make_learner(Request(WORLD, {}, {}, seeds))


def segment(*steps: int) -> Segment:
    return Segment(np.array(steps), 2, 0.2)


def walked(seeds: tuple[int, ...], steps: tuple[int, ...]):
    """Labels, reward model and the end of a segment from the base policy."""
    one = learner(*seeds)
    base = one.base()
    labels = one.collect(base, base, 16, ("initial",))
    reward = one.fit([Batch(labels, np.ones(len(seeds), dtype=bool), 16)], 1, ("fit", 1))
    return one, labels, reward, list(one.optimise(base, reward, segment(*steps), ("steps", 1)))[-1]


def test_a_lane_depends_on_its_own_seed_only():
    """The lane of seed 2, among others and alone: the same verdicts, and the same policy but for the fit's tolerance."""
    among, labels, reward, end = walked((1, 2, 3), (4, 4, 4))
    alone, own, own_reward, own_end = walked((2,), (4,))
    assert np.array_equal(among.wins(labels)[1], alone.wins(own)[0])
    assert np.allclose(end.policy[1], own_end.policy[0], atol=1e-6)
    gold = among.evaluate(end.policy, among.base(), reward, pairs=True).gold
    assert gold[1] == pytest.approx(alone.evaluate(own_end.policy, alone.base(), own_reward, pairs=True).gold[0], abs=1e-5)
    assert len(set(gold.round(6))) == 3


def test_draws_come_from_seed_and_key_alone():
    one = learner(1, 2)
    base = one.base()
    first, again = (one.wins(one.collect(base, base, 40, ("inside", 3))) for _ in range(2))
    other = one.wins(one.collect(base, base, 40, ("inside", 4)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_changes_what_was_passed_in_and_idle_lanes_stand_still():
    one, _, reward, _ = walked((1, 2), (2, 2))
    base = one.base()
    before = np.array(base, copy=True)
    points = list(one.optimise(base, reward, segment(0, 5), ("steps", 2)))
    assert np.array_equal(base, before)
    assert points[-1].done.tolist() == [0, 5]
    assert np.array_equal(points[-1].policy[0], before[0])
    assert not np.allclose(points[-1].policy[1], before[1])
    # A policy yielded on the way is not the one that goes on changing.
    assert not np.array_equal(points[0].policy[1], points[-1].policy[1])


def test_half_way_to_itself_is_itself_and_a_mask_chooses_lane_by_lane():
    one, _, reward, end = walked((1, 2), (3, 3))
    base = one.base()
    ends = one.evaluate(one.interpolate(base, end.policy, 1.0), base, reward, pairs=False)
    assert np.allclose(ends.gold, one.evaluate(end.policy, base, reward, pairs=False).gold)
    assert np.allclose(one.evaluate(one.interpolate(base, end.policy, 0.0), base, reward, pairs=False).kl, 0, atol=1e-12)
    mixed = one.select(np.array([True, False]), end.policy, base)
    assert np.array_equal(mixed[0], end.policy[0])
    assert np.array_equal(mixed[1], base[1])


def test_the_base_policy_is_at_nought():
    """Gold is standardised on it, and no measure of distance moves without a step."""
    one = learner(1, 2, 3)
    base = one.base()
    found = one.evaluate(base, base, None, pairs=False)
    for column in (found.gold, found.kl, found.kl_segment):
        assert np.allclose(column, 0, atol=1e-9)


def test_integrated_exposure_is_the_wrong_weight_times_how_far_each_step_went():
    one, _, reward, _ = walked((1, 2), (2, 2))
    end = list(one.optimise(one.base(), reward, segment(4, 1), ("steps", 2)))[-1]
    assert (end.exposure[:, 0, 0] > 0).all()
    assert end.exposure[:, INTEGRATED] == pytest.approx(np.sqrt(2) * 0.2 * end.exposure[:, 0])


def test_an_implicit_reward_orders_pairs_by_what_moved_up():
    """Tilted by gold it is always right, tilted against it never, and the base policy says nothing: one half."""
    one = learner(1, 2)
    base, gold = one.base(), one.bandit.gold
    found = [
        one.evaluate(log_softmax(base + sign * gold), base, None, pairs=False).accuracy_implicit.tolist()
        for sign in (1, -1, 0)
    ]
    assert found == [[1, 1], [0, 0], [0.5, 0.5]]


def test_the_share_of_the_bad_set_is_its_probability():
    one = make_learner(Request({**WORLD, "bad_mass": 0.3}, {}, {}, (1, 2)))
    assert one.evaluate(one.base(), one.base(), None, pairs=False).bad == pytest.approx([0.3, 0.3])
