"""Fitting a reward model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlback.errors import DataError, TrainingDiverged
from rlback.maths.bradley_terry import accuracy
from rlback.models.reward_model import RewardModel, warm_start
from rlback.settings import RewardConfig
from rlback.training.reward import TokenPair, fit_reward, pair_scores
from rlback.training.state import load_state
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


def lead_after(pair: TokenPair, config: RewardConfig, *, start: float = 0.0) -> float:
    """The chosen completion's lead, in raw score, of a sum model fitted to one pair from a lead of `start`."""
    judge = reward_model(policy(), surprise=False)
    with torch.no_grad():
        judge.token_table.weight[A, 0] = 4.0 * start  # two more of this letter, over the divisor of 8
    assert lead_of(judge, pair) == pytest.approx(start, abs=1e-6)
    fit_reward(judge, [pair, pair], config, seed=1)
    return lead_of(judge, pair)


def lead_of(judge: RewardModel, pair: TokenPair) -> float:
    chosen, rejected = pair_scores(judge, [pair])
    return float(chosen - rejected)


AA_BB = TokenPair([BOS, B], [A, A, EOS], [B, B, EOS])
LONG = RewardConfig(epochs=100, batch=2, lr=2e-2, warmup=1, use_ties=True)


def test_three_votes_in_five_end_at_their_logit() -> None:
    """Fitted to convergence, the lead is logit(0.6) = ln 1.5 = 0.405; two in five say the same of the other side."""
    assert lead_after(replace(AA_BB, target=0.6), LONG) == pytest.approx(0.405, abs=0.01)
    assert lead_after(replace(AA_BB, target=0.4), LONG) == pytest.approx(-0.405, abs=0.01)


def test_a_tie_pulls_scores_together() -> None:
    """From a lead of 1.5 a tie brings it down towards 0, where a plain label widens it."""
    few = replace(LONG, epochs=30)
    assert lead_after(replace(AA_BB, target=0.5), few, start=1.5) < 0.8
    assert lead_after(AA_BB, few, start=1.5) > 2.0


def test_a_margin_is_asked_for() -> None:
    """Equal scores where a lead of ln 3 is asked for cost ln 4 nats; with votes of 3 in 5 the lead ends elsewhere."""
    margin = math.log(3)
    unfitted = replace(CONFIG, epochs=1)
    metrics = fit_reward(reward_model(policy()), [replace(AA_BB, margin=margin)] * 16, unfitted, seed=1)
    assert metrics["loss"] == pytest.approx(math.log(4), abs=1e-5)
    few = replace(LONG, epochs=60)
    assert lead_after(replace(AA_BB, margin=3.0), few) > lead_after(AA_BB, few) + 0.2


def test_ties_have_no_part_unless_asked_for() -> None:
    """Without `use_ties` the fit is that of the decided pairs, bit for bit; with it, it is another."""
    pairs = letter_pairs(16)
    ties = [replace(pair, target=0.5) for pair in letter_pairs(16, seed=3)]
    digests = []
    for data, use_ties in ((pairs, False), (pairs + ties, False), (pairs + ties, True)):
        judge = reward_model(policy())
        fit_reward(judge, data, replace(CONFIG, epochs=1, use_ties=use_ties), seed=1)
        digests.append(judge.identity())
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(DataError, match="all preference pairs are ties"):
        fit_reward(reward_model(policy()), ties, CONFIG, seed=1)


def test_a_pair_turned_round_is_the_same_pair() -> None:
    """Sides swapped and target 1 - t: the same loss and accuracy, and the same weights but for rounding."""
    pairs = [replace(pair, target=0.9) for pair in letter_pairs(16)]
    turned = [TokenPair(p.prompt, p.rejected, p.chosen, target=0.1) for p in pairs]
    judges = [reward_model(policy(), pooling="last", surprise=False) for _ in range(2)]
    config = replace(CONFIG, epochs=3, lr=1e-3)
    first, second = (fit_reward(j, data, config, seed=1) for j, data in zip(judges, (pairs, turned), strict=True))
    assert first == pytest.approx(second, abs=1e-4)
    assert torch.allclose(judges[0].head.weight, judges[1].head.weight, atol=1e-4)
    assert first["accuracy"] != 0.5


def test_centering_holds_the_level_and_leaves_the_lead() -> None:
    """Both sides start 1 too high (the end token is in both): centering brings the level down, and the lead grows on."""
    levels, leads = [], []
    for centering in (0.0, 1.0):
        judge = reward_model(policy(), surprise=False)
        with torch.no_grad():
            judge.token_table.weight[EOS, 0] = 8.0
        fit_reward(judge, [AA_BB] * 2, replace(LONG, epochs=60, centering=centering), seed=1)
        chosen, rejected = pair_scores(judge, [AA_BB])
        levels.append(abs(float(chosen + rejected)) / 2)
        leads.append(float(chosen - rejected))
    assert levels[0] > 0.9
    assert levels[1] < 0.3
    assert min(leads) > 0.5


def test_a_model_that_collapsed_is_no_result(tmp_path: Path) -> None:
    """Steps too small to move a score leave all equal: the error has the number, the state before stays the last."""
    judge = reward_model(policy())
    config = replace(CONFIG, epochs=3, batch=8, lr=1e-12)
    with pytest.raises(TrainingDiverged, match=r"reward model: .* last batch of the fit have standard deviation .*e-"):
        fit_reward(judge, letter_pairs(16), config, seed=1, state_dir=tmp_path, save_every_s=0)
    state = load_state(tmp_path)
    assert state is not None
    assert state.step == 5


def test_a_warm_start_goes_on_from_what_was_learned() -> None:
    """A model that starts from a fitted one orders new pairs right at once; the fit continues from there."""
    fitted, made = reward_model(policy()), reward_model(policy())
    fit_reward(fitted, letter_pairs(100), replace(CONFIG, epochs=12, lr=1e-2), seed=1)
    warm_start(made, fitted)
    assert accuracy(*pair_scores(made, letter_pairs(100, seed=9))) >= 0.95
    metrics = fit_reward(made, letter_pairs(16, seed=5), replace(CONFIG, epochs=1, lr=1e-4), seed=2)
    assert metrics["loss"] < 0.4
    assert made.identity() != fitted.identity()


def test_wrong_input_is_refused() -> None:
    """No pairs, an empty side, impossible targets, weights and margins, and a smoothing of one half are named."""
    with pytest.raises(DataError, match="no preference pairs"):
        fit_reward(reward_model(policy()), [], CONFIG, seed=1)
    pairs = [TokenPair([BOS, A], [A, EOS], [B, EOS]), TokenPair([BOS, A], [A, EOS], [])]
    with pytest.raises(DataError, match="preference pair 1 "):
        fit_reward(reward_model(policy()), pairs, CONFIG, seed=1)
    for wrong, message in (
        ({"target": 1.2}, "preference pair 1 has the target 1.2"),
        ({"target": math.nan}, "preference pair 1 has the target nan"),
        ({"weight": -1.0}, "preference pair 1 has the weight -1.0"),
        ({"margin": math.inf}, "preference pair 1 has the margin inf"),
    ):
        with pytest.raises(DataError, match=message):
            fit_reward(reward_model(policy()), [AA_BB, replace(AA_BB, **wrong)], CONFIG, seed=1)
    with pytest.raises(DataError, match="weight 0"):
        fit_reward(reward_model(policy()), [replace(AA_BB, weight=0.0)], CONFIG, seed=1)
    with pytest.raises(ValueError, match="label_smoothing"):
        RewardConfig(lr=1e-3, label_smoothing=0.5)
