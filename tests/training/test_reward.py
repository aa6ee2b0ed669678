"""Fitting a reward model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlback.errors import DataError, TrainingDiverged
from rlback.maths.bradley_terry import accuracy
from rlback.settings import RewardConfig
from rlback.training.reward import TokenPair, fit_reward, pair_scores
from tests.training.tiny import BOS, EOS, A, B, letter_pairs, policy, reward_model

CONFIG = RewardConfig(epochs=6, batch=16, lr=3e-3)


@pytest.mark.parametrize("pooling", ["last", "mean", "sum"])
def test_it_learns_which_letter_is_liked(pooling: str) -> None:
    """After 100 pairs, 95 % of 100 new ones are ordered right; before, as many as a coin would."""
    judge = reward_model(policy(), pooling=pooling, surprise=pooling == "sum")
    held_out = letter_pairs(100, seed=9)
    before = accuracy(*pair_scores(judge, held_out))
    metrics = fit_reward(judge, letter_pairs(100), replace(CONFIG, epochs=12, lr=1e-2), seed=1)
    assert before < 0.75
    assert accuracy(*pair_scores(judge, held_out)) >= 0.95
    liked, other = judge.score([[BOS, B, B]] * 2, [[A, A, A, EOS], [B, B, B, EOS]]).tolist()
    assert liked > other
    assert metrics["accuracy"] > 0.9
    assert metrics["loss"] < 0.4


def test_pairs_of_weight_zero_teach_nothing() -> None:
    """Among as many pairs that say the opposite at weight 0, the liked letter is learnt all the same."""
    judge = reward_model(policy())
    opposite = [TokenPair(pair.prompt, pair.rejected, pair.chosen, weight=0.0) for pair in letter_pairs(60, seed=4)]
    fit_reward(judge, [*letter_pairs(60), *opposite], replace(CONFIG, lr=1e-2), seed=1)
    assert accuracy(*pair_scores(judge, letter_pairs(100, seed=9))) >= 0.95


def test_an_unfitted_sum_model_is_undecided() -> None:
    """All scores are 0 at first: a fit of one batch starts at ln 2 nats, with half the pairs right."""
    judge = reward_model(policy())
    pairs = letter_pairs(16)
    assert accuracy(*pair_scores(judge, pairs)) == 0.5
    metrics = fit_reward(judge, pairs, replace(CONFIG, epochs=1), seed=1)
    assert abs(metrics["loss"] - math.log(2)) < 1e-6


def test_the_cut_into_parts_changes_nothing() -> None:
    """One completion a part or all in one part: the same weights, but for rounding."""
    trained = []
    for max_padded in (1, 10_000):
        judge = reward_model(policy(), pooling="mean", surprise=False)
        fit_reward(judge, letter_pairs(16), replace(CONFIG, epochs=3, max_padded=max_padded), seed=1)
        trained.append(torch.cat([p.detach().flatten() for p in judge.parameters()]))
    assert torch.allclose(*trained, atol=1e-4)


def test_parts_learn_at_their_own_rates() -> None:
    """With a trunk factor of a hundredth, one step moves trunk weights a hundredth as far as the head's."""
    judge = reward_model(policy(), pooling="mean", surprise=False)
    before = {name: p.detach().clone() for name, p in judge.named_parameters()}
    config = replace(CONFIG, epochs=1, batch=16, weight_decay=0.0, warmup=1, trunk_lr_factor=0.01)
    fit_reward(judge, letter_pairs(16), config, seed=1)
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in judge.named_parameters()}
    # Adam's first step is the rate itself, whatever the gradient.
    assert moved.pop("head.weight") == pytest.approx(3e-3, rel=1e-2)
    assert max(moved.values()) == pytest.approx(3e-5, rel=1e-2)


def test_the_frozen_policy_is_not_trained() -> None:
    """The frozen policy inside the reward model keeps its weights."""
    judge = reward_model(policy())
    before = {name: p.clone() for name, p in judge.frozen.named_parameters()}
    fit_reward(judge, letter_pairs(16), CONFIG, seed=1)
    assert all(torch.equal(p, before[name]) for name, p in judge.frozen.named_parameters())


def test_a_nan_weight_stops_the_fit() -> None:
    """The error names the stage and the step."""
    judge = reward_model(policy(), pooling="last", surprise=False)
    with torch.no_grad():
        judge.head.weight.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="reward model: the loss at step 0 is nan"):
        fit_reward(judge, letter_pairs(16), CONFIG, seed=1)


def test_wrong_input_is_refused() -> None:
    """No pairs, an empty side and a smoothing of one half are refused by name."""
    with pytest.raises(DataError, match="no preference pairs"):
        fit_reward(reward_model(policy()), [], CONFIG, seed=1)
    pairs = [TokenPair([BOS, A], [A, EOS], [B, EOS]), TokenPair([BOS, A], [A, EOS], [])]
    with pytest.raises(DataError, match="preference pair 1 "):
        fit_reward(reward_model(policy()), pairs, CONFIG, seed=1)
    with pytest.raises(ValueError, match="label_smoothing"):
        RewardConfig(lr=1e-3, label_smoothing=0.5)
