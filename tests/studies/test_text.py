"""The text world keeps the rules of a learner, and the machine runs its arms on it. Tiny models: nothing is learned here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlback.errors import CheckpointError, ConfigError
from rlback.records import Comparison, Completion
from rlback.studies.arms import library
from rlback.studies.config import check_study
from rlback.studies.machine import Plan, run_arm, unsupported
from rlback.studies.protocol import EXPOSURES, INTEGRATED, Batch, Request, Segment
from rlback.studies.recorder import Names, Recorder
from rlback.studies.text import TextLearner
from rlback.studies.text_visits import make_learner

WORLD = {
    "shape": {"d_model": 16, "layers": 1, "heads": 2, "mlp": 32, "max_positions": 64},
    "training": {"steps": 40, "batch": 16, "lr": 0.01, "warmup": 5},
    "eval_prompts": 4, "reference_samples": 16, "max_new_tokens": 8,
}  # fmt: skip
OPTIMISER = {
    "prompts_per_step": 2, "samples_per_prompt": 2, "dpo_batch": 4,
    "reward": {"epochs": 1, "batch": 8, "lr": 0.01}, "reward_shape": {"pooling": "sum", "surprise": True},
}  # fmt: skip


def learner(seeds: tuple[int, ...], shared: Path) -> TextLearner:
    return make_learner(Request(WORLD, {}, OPTIMISER, seeds, shared))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def weights(policy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def segment(*steps: int) -> Segment:
    return Segment(np.array(steps), 2, 1.0)


def test_a_lane_depends_on_its_own_seed_only(shared: Path) -> None:
    """Lane 2 of seeds (1, 2) and the one of seed 2: same labels, fit and steps; twice the same; the start as it was."""
    found = []
    for seeds in ((1, 2), (2,)):
        one = learner(seeds, shared)
        base = one.base()
        before = weights(base[-1])
        labels = one.collect(base, base, 12, ("initial",))
        reward = one.fit([Batch(labels, np.ones(len(seeds), dtype=bool), 12)], 1, ("fit", 1))
        end = list(one.optimise(base, reward, segment(*[3] * len(seeds)), ("steps", 1)))[-1]
        assert torch.equal(before, weights(base[-1]))
        measured = one.evaluate(end.policy, base, reward, pairs=True)
        found.append((labels.wins[-1].tolist(), weights(end.policy[-1]), measured.gold[-1], measured.kl[-1]))
        assert end.done.tolist() == [3] * len(seeds)
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2:] == found[1][2:]
    assert found[0][3] >= 0


def test_a_lane_that_is_done_stands_still(shared: Path) -> None:
    one = learner((1, 2), shared)
    base, gold = one.base(), one.scorer("gold")
    points = list(one.optimise(base, gold, segment(0, 4), ("steps", 1)))
    assert [p.done.tolist() for p in points] == [[0, 2], [0, 4]]
    assert points[-1].policy[0] is base[0]
    assert not torch.equal(weights(points[-1].policy[1]), weights(base[1]))
    assert points[-1].exposure[0].sum() == 0
    assert np.isfinite(points[-1].exposure[1, :2]).all()
    # Gold as the reward: no sample has the wrong sign.
    assert points[-1].exposure[1, 0, 0] <= 0.5 * points[-1].exposure[1, 0, 1]


def test_halfway_lies_between(shared: Path) -> None:
    one = learner((1,), shared)
    base = one.base()
    end = list(one.optimise(base, one.scorer("gold"), segment(2), ("steps", 1)))[-1].policy
    half = one.interpolate(base, end, 0.5)
    torch.testing.assert_close(weights(half[0]), (weights(base[0]) + weights(end[0])) / 2)


def test_one_base_is_trained_for_all(shared: Path) -> None:
    first = weights(learner((4,), shared).base()[0])
    assert torch.equal(first, weights(learner((5,), shared).base()[0]))
    made = list(shared.glob("base-*[0-9a-f]"))
    assert len(made) == 1
    other = make_learner(Request({**WORLD, "bases": 2}, {}, OPTIMISER, (4, 5), shared))
    assert not torch.equal(weights(other.base()[0]), weights(other.base()[1]))


@pytest.mark.parametrize(
    "arm", ["from-base", "rollback-once", "rollback-until-approved", "take-last-wco", "direct", "dpo-offline", "gold"]
)
def test_the_machine_runs_its_arms(arm: str, shared: Path) -> None:
    one = learner((3,), shared)
    plan = Plan(rounds=2, segment_steps=2, segment_length=1.0, every=1, initial=12, inside=4, cross=4, points=False)
    recorder = Recorder(Names("s", "visits", "tiny", arm, "d", "c"), np.array([3]))
    run_arm(one, library()[arm], plan, recorder, (3,))
    rows = recorder.table().to_pylist()
    assert [r["point"] for r in rows].count("candidate") >= 1
    assert all(r["gold"] is not None and r["kl"] >= 0 for r in rows)
    assert {r["status"] for r in rows} == {"ok"}
    assert rows[-1]["labels"] > 0 or arm == "gold"
    # Two rounds are gone through unless people stop it; from the base the second is twice as long.
    assert arm == "rollback-until-approved" or rows[-1]["updates"] == {"from-base": 6, "rollback-once": 8}.get(arm, 4)
    measured = [r["mx_sign_all"] for r in rows if r["updates"]]
    assert all(v is None for v in measured) if arm == "dpo-offline" else all(0 <= v <= 1 for v in measured)


def test_a_first_reward_model_is_kept_and_the_same_when_read(shared: Path, tmp_path: Path) -> None:
    """Fitted without a shared directory, fitted into one, and read from there; a later fit is an arm's own."""
    scores = []
    for place in (None, tmp_path, tmp_path):
        one = learner((3,), shared)
        labels = one.collect(one.base(), one.base(), 12, ("initial",))
        batch = [Batch(labels, np.ones(1, dtype=bool), 12)]
        base, there = one.bases, replace(one, world=replace(one.world, shared=place))
        there.__dict__["bases"] = base
        scores.append(there.predicted(labels, there.fit(batch, 1, ("fit", 1))).tolist())
        there.fit(batch, 1, ("fit", 2))
    assert scores[0] == scores[1] == scores[2]
    assert len(list(tmp_path.glob("reward-*.json"))) == 1


def test_an_altered_base_is_refused_and_made_again_when_its_record_is_removed(tmp_path: Path) -> None:
    before = weights(learner((4,), tmp_path).base()[0])
    record = next(tmp_path.glob("base-*.json"))
    file = tmp_path / record.stem / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="shared by all runs") as error:
        learner((4,), tmp_path).base()
    assert error.value.remedy is not None
    assert str(record) in error.value.remedy
    record.unlink()
    assert torch.equal(before, weights(learner((4,), tmp_path).base()[0]))


#: Gold and KL of the last kept policy, labels: found at commit 79e3b24, before there was a second text world.
PINNED = {
    "take-last-wco": (-0.083526, 0.016323, 20),
    "rollback-once": (-0.199578, 0.0, 28),
    "direct": (0.482228, 0.0, 12),
    "dpo-offline": (0.373429, 0.0, 12),
    "best-of-n": (0.032526, 3.174508, 12),
}


@pytest.mark.parametrize("arm", list(PINNED))
def test_the_numbers_of_visits_stay_what_they_were(arm: str, shared: Path) -> None:
    """To what another processor's rounding may change."""
    one = learner((3,), shared)
    plan = Plan(rounds=2, segment_steps=2, segment_length=1.0, every=1, initial=12, inside=4, cross=4, points=False)
    recorder = Recorder(Names("s", "visits", "tiny", arm, "d", "c"), np.array([3]))
    run_arm(one, library()[arm], plan, recorder, (3,))
    last = recorder.table().to_pylist()[-1]
    assert (last["gold"], last["kl"], last["labels"]) == pytest.approx(PINNED[arm], rel=1e-3, abs=1e-4)


def test_best_of_n_is_better_by_its_own_scorer(shared: Path) -> None:
    one = learner((3,), shared)
    base, gold = one.base(), one.scorer("gold")
    best = one.best_of_n(base, gold, 4)
    before, after = (one.evaluate(p, base, gold, pairs=False) for p in (base, best))
    assert after.gold[0] > before.gold[0]
    assert after.kl[0] == pytest.approx(np.log(4) - 0.75)
    with pytest.raises(ConfigError, match="best of n has no weights"):
        list(one.optimise(best, gold, segment(1), ("steps", 1)))


def test_what_it_cannot_do_is_refused_by_name(shared: Path) -> None:
    one = learner((3,), shared)
    assert "cannot join reward models by weight_average" in (unsupported(one, library()["vanilla-warm"]) or "")
    assert unsupported(one, library()["vanilla-wco"]) is None
    tree = {
        "name": "s", "world": "visits", "seeds": {"first": 0, "count": 1}, "arms": ["vanilla-warm"], "settings": {"a": {}},
        "plan": {"rounds": 1, "segment_steps": 2, "segment_length": 1.0, "every": 1, "initial": 12, "inside": 4, "cross": 4},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"arm `vanilla-warm`.*weight_average"):
        check_study(tree, "s.yaml")
    with pytest.raises(ConfigError, match="no scorer 'taste'"):
        one.scorer("taste")


def test_settings_are_checked_without_training(shared: Path) -> None:
    make_learner(Request({}, {}, {}, (0,)))  # would take a minute otherwise
    with pytest.raises(ConfigError, match=r"unknown key `eval_prompt`") as error:
        make_learner(Request({"eval_prompt": 3}, {}, {}, (0,)))
    assert error.value.remedy == "did you mean `eval_prompts`?"
    with pytest.raises(ConfigError, match="lapse"):
        make_learner(Request({}, {"lapse": 0.9}, {}, (0,)))


def test_a_dishonest_base_writes_planted_reviews_and_an_exposure_counts_them(shared: Path) -> None:
    """Trained on lies alone even a tiny model writes some, on one true claim none; what is pushed up of them is a share."""
    made = {}
    for writer in ("dishonest", "terse"):
        world = {**WORLD, "training": {"steps": 300, "batch": 16, "lr": 0.01, "warmup": 5}, "eval_prompts": 32, writer: 1.0}
        one = make_learner(Request({**world, "max_new_tokens": 48}, {}, OPTIMISER, (3,), shared))
        made[writer] = one
    bad = {name: one.evaluate(one.base(), one.base(), None, pairs=False).bad[0] for name, one in made.items()}
    assert bad["terse"] == 0
    assert bad["dishonest"] > 0
    one = made["dishonest"]
    end = list(one.optimise(one.base(), one.scorer("gold"), segment(3), ("steps", 1)))[-1]
    part, whole = end.exposure[0, EXPOSURES.index("bad")]
    assert 0 <= part < whole
    # The learning rate is 8e-4 at the usual size of a step, and this segment's is.
    assert end.exposure[0, INTEGRATED] == pytest.approx(8e-4 * end.exposure[0, EXPOSURES.index("sign")])


def test_people_are_fooled_by_planted_reviews_and_like_words_as_they_are_told_to(shared: Path) -> None:
    """Noiseless: what an annotator adds decides what gold leaves equal, and outweighs it where it is more."""
    prompt = "luigis service:bad price:bad music:bad =>"
    lie, truth = "the price was fair . do give it a try .", "the price was steep . give it a miss ."
    sides = [Completion(text, (1,), True) for text in (lie, truth)]
    pair = Comparison(prompt, *sides, "inside")
    for settings, lie_wins in (({}, 0.0), ({"fooled": 9.0}, 1.0), ({"length_bias": 9.0}, 1.0)):
        one = make_learner(Request(WORLD, {"temperature": 0.0, **settings}, OPTIMISER, (3,), shared))
        assert one._verdicts([pair], 0) == [lie_wins], settings


def test_shares_of_writers_add_up_to_at_most_one() -> None:
    with pytest.raises(ConfigError, match="dishonest and terse"):
        make_learner(Request({"dishonest": 0.6, "terse": 0.6}, {}, {}, (0,)))
