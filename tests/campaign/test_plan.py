"""What a campaign does next, from what is recorded."""

from __future__ import annotations

from rlback.campaign.plan import Finished, Step, attempts, next_step, stages_of_round
from rlback.config import check_config
from tests.conftest import TINY, changed

CONFIG = check_config(TINY, "tiny")


def run(config, decide=lambda r, a: "approve", limit=200):
    """Plays a campaign with made-up outputs; returns the steps and why it finished."""
    recorded, steps = {}, []
    while isinstance(due := next_step(config, recorded), Step):
        assert len(steps) < limit
        steps.append(due)
        output = {}
        if due.stage == "decide":
            output = {"verdict": decide(due.round, due.attempt)}
        if due.stage == "settle":
            last = recorded[(due.round, "decide", attempts(recorded, due.round))]["verdict"]
            output = {"decision": "approved" if last == "approve" else "declined"}
        recorded[due.key] = output
    return steps, due


def names(steps, round_):
    return [step.stage for step in steps if step.round == round_]


def test_the_stages_of_a_rollback_campaign_in_order():
    """Round 0 prepares, each round trains, asks and settles; the last round fits no reward model nobody uses."""
    steps, finished = run(CONFIG)
    assert names(steps, 0) == ["data", "base", "sample", "label", "snapshot", "fit_reward"]
    assert names(steps, 1) == ["optimise", "sample", "label", "evaluate", "decide", "settle", "snapshot", "fit_reward"]
    assert names(steps, 2) == ["optimise", "sample", "label", "evaluate", "decide", "settle", "snapshot"]
    assert finished == Finished("all 2 rounds are done")


def test_more_labels_repeats_sampling_labelling_and_the_gate_for_the_same_candidate():
    """Asked twice for more labels, round 1 optimises once and has three batches and three gates."""
    steps, _ = run(CONFIG, lambda r, a: "more-labels" if (r, a) in ((1, 1), (1, 2)) else "decline")
    first = [step for step in steps if step.round == 1]
    assert [s.attempt for s in first if s.stage == "sample"] == [1, 2, 3]
    assert [s.attempt for s in first if s.stage == "evaluate"] == [1, 2, 3]
    assert [s.stage for s in first].count("optimise") == 1
    assert [s.stage for s in first].count("settle") == 1


def test_enough_approvals_finish_a_campaign_before_its_rounds_are_used_up():
    """With stop_after_approvals 1, declined round 1 and approved round 2 of 5 end it after round 2's snapshot."""
    config = check_config(changed(rounds=5, stop_after_approvals=1), "tiny")
    steps, finished = run(config, lambda r, a: "approve" if r == 2 else "decline")
    assert max(step.round for step in steps) == 2
    assert steps[-1].stage == "snapshot"
    assert "1 candidate approved" in finished.reason


def test_vanilla_has_no_labels_after_the_first_and_one_round():
    """Without labels in a round it neither samples nor labels nor freezes."""
    config = check_config(
        changed(rounds=1, refresh=False, labels={"inside": 0, "cross": 0}, gate={"approver": "always"}), "tiny"
    )
    assert names(run(config)[0], 1) == ["optimise", "evaluate", "decide", "settle"]


def test_a_diverged_round_is_settled_without_asking_anybody():
    """No candidate, no gate: the round goes from optimise to settle, and the next one starts."""
    recorded = {key: {} for key in [(0, s, 1) for s in stages_of_round(CONFIG, 0)]}
    recorded[(1, "optimise", 1)] = {"diverged": "loss is nan"}
    assert next_step(CONFIG, recorded) == Step(1, "settle")
    recorded[(1, "settle", 1)] = {"decision": "declined"}
    assert next_step(CONFIG, recorded) == Step(2, "optimise")


def test_the_plan_depends_on_what_is_recorded_alone():
    """Whatever prefix of a campaign is recorded, the next step is the one that followed it."""
    steps, _ = run(CONFIG)
    for n in range(len(steps)):
        recorded = {}
        for step in steps[:n]:
            recorded[step.key] = {"verdict": "approve", "decision": "approved"}
        assert next_step(CONFIG, recorded) == steps[n]
