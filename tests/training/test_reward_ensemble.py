"""Fitting ensembles of reward models in one pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlback.errors import ConfigError
from rlback.maths.bradley_terry import accuracy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.settings import RewardConfig, RewardShape
from rlback.training.reward import bootstrap_weights, fit_reward, pair_scores
from tests.training.tiny import letter_pairs, policy

CONFIG = RewardConfig(epochs=6, batch=16, lr=3e-3)


def ensemble(pooling: str = "sum", members: int = 3, **settings: object) -> RewardModel:
    return new_reward_model(policy(), RewardShape(pooling, pooling == "sum", members, **settings), seed=1)


def test_members_see_different_resamples() -> None:
    """Each row is 1,000 draws from 1,000 pairs: it sums to that, leaves out about 1/e, and repeats for a seed."""
    drawn = bootstrap_weights(4, 1000, seed=3)
    assert drawn.shape == (4, 1000)
    assert drawn.sum(1).tolist() == [1000.0] * 4
    assert ((drawn == 0).float().mean(1) - 0.368).abs().max() < 0.05
    assert len({tuple(row) for row in drawn.tolist()}) == 4
    # Resamples are independent: a pair that one member did not see, another one saw twice as often as not.
    assert abs(float((drawn[1][drawn[0] == 0] > 0).float().mean()) - 0.632) < 0.1
    assert torch.equal(bootstrap_weights(4, 1000, seed=3), drawn)
    assert torch.equal(bootstrap_weights(2, 1000, seed=3), drawn[:2])
    assert not torch.equal(bootstrap_weights(4, 1000, seed=4), drawn)


def test_members_with_trunks_of_their_own_learn_as_if_alone() -> None:
    """Fitted together or each alone, its resample as weights: the same scores, but for rounding.

    All pairs are in each batch and no gradient is clipped, since a step's weight and the clipping are joint.
    """
    pairs, config = letter_pairs(16), replace(CONFIG, epochs=4, clip=1e9)
    together = ensemble("last", 2, share_trunk=False)
    heads = together.head.weight.detach().clone()
    fit_reward(together, pairs, config, seed=5)
    sides = [pair.prompt for pair in pairs], [pair.chosen for pair in pairs]
    scores = together(*sides)
    for member, counts in enumerate(bootstrap_weights(2, 16, seed=5).tolist()):
        single = new_reward_model(policy(), RewardShape("last"), seed=1)
        with torch.no_grad():
            single.head.weight.copy_(heads[member : member + 1])
        untrained = single(*sides)
        weighted = [replace(pair, weight=count) for pair, count in zip(pairs, counts, strict=True)]
        fit_reward(single, weighted, config, seed=5)
        assert torch.allclose(single(*sides), scores[member], atol=1e-3)
        assert (single(*sides) - untrained).abs().max() > 0.02


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_members_with_trunks_of_their_own_go_through_the_pairs_in_their_own_order(pooling: str) -> None:
    """Without resamples two equal members still part, by order alone; the first one's is that of a model by itself."""
    pairs, config = letter_pairs(64), replace(CONFIG, epochs=1, batch=4, bootstrap=False, clip=1e9)
    together = ensemble(pooling, 2, share_trunk=False)
    with torch.no_grad():
        together.head.weight.copy_(together.head.weight[:1].expand_as(together.head.weight))
    single = new_reward_model(policy(), RewardShape(pooling, pooling == "sum"), seed=1)
    with torch.no_grad():
        single.head.weight.copy_(together.head.weight[:1])
    sides = [pair.prompt for pair in pairs], [pair.chosen for pair in pairs]
    before = together(*sides)
    assert torch.equal(before[0], before[1])
    fit_reward(together, pairs, config, seed=5)
    fit_reward(single, pairs, config, seed=5)
    first, second = together(*sides)
    assert torch.allclose(first, single(*sides), atol=1e-3)
    assert (first - second).abs().max() > 0.02
    assert torch.allclose(together(*sides, member=1), second, atol=1e-5)


@pytest.mark.parametrize("share_trunk", [True, False])
@pytest.mark.parametrize("pooling", ["last", "sum"])
def test_members_come_to_differ(pooling: str, share_trunk: bool) -> None:
    """Also members that start equal (pooling: sum) end with their own tables, heads and opinions."""
    made = ensemble(pooling, 3, share_trunk=share_trunk)
    pairs = letter_pairs(24)
    fit_reward(made, pairs, CONFIG, seed=1)
    prompts, completions = [p.prompt for p in pairs], [p.chosen for p in pairs]
    made.rescale(prompts, completions)
    spread = made.member_scores(prompts, completions).std(0)
    assert spread.mean() > 0.02
    if pooling == "sum":
        tables = made.token_table.weight.detach().view(-1, 3, 2)
        assert all((tables[:, i] - tables[:, j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("combine", ["mean", "worst_case"])
def test_an_ensemble_learns_which_letter_is_liked(combine: str) -> None:
    """After 100 pairs, 95 % of 100 new ones are ordered right, by the ensemble and by each member."""
    made, held_out = ensemble(combine=combine), letter_pairs(100, seed=9)
    before = accuracy(*pair_scores(made, held_out))
    pairs = letter_pairs(100)
    metrics = fit_reward(made, pairs, replace(CONFIG, epochs=12, lr=1e-2), seed=1)
    made.rescale([p.prompt for p in pairs] * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs])
    chosen, rejected = pair_scores(made, held_out)
    assert chosen.shape == rejected.shape == (100,)
    assert before == 0.5
    assert accuracy(chosen, rejected) >= 0.95
    assert metrics["accuracy"] > 0.9
    members = [made.member_scores([p.prompt for p in held_out], side) for side in zip(*_sides(held_out), strict=True)]
    for better, worse in zip(*members, strict=True):
        assert accuracy(better, worse) >= 0.9


def _sides(pairs: list) -> list[tuple]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def test_pair_scores_are_the_models_scores() -> None:
    """The scores of pairs are those that `score` gives for their completions, after rescaling, too."""
    made, pairs = ensemble("mean", combine="worst_case"), letter_pairs(8)
    made.rescale([p.prompt for p in pairs], [p.chosen for p in pairs])
    chosen, rejected = pair_scores(made, pairs, max_padded=1)
    assert torch.allclose(chosen, made.score([p.prompt for p in pairs], [p.chosen for p in pairs]), atol=1e-4)
    assert torch.allclose(rejected, made.score([p.prompt for p in pairs], [p.rejected for p in pairs]), atol=1e-4)


@pytest.mark.parametrize(("surprise", "rows"), [(False, 16), (True, 32)])
def test_scoring_pairs_counts_completions(surprise: bool, rows: int) -> None:
    """Eight pairs, a part each: every completion once, and once more where its log-probs come first."""
    said: list[tuple[int, int]] = []
    made = ensemble("sum" if surprise else "mean")
    pair_scores(made, letter_pairs(8), max_padded=1, report=lambda done, total, _: said.append((done, total)))
    assert said[-1] == (rows, rows)
    assert len(said) >= 16
    assert said == sorted(set(said))


def test_members_that_could_not_differ_are_refused() -> None:
    """With pooling: sum members start equal; without resamples they would stay one model that looks like three."""
    with pytest.raises(ConfigError, match=r"3 members .* stay equal"):
        fit_reward(ensemble(), letter_pairs(16), replace(CONFIG, bootstrap=False), seed=1)


def test_without_bootstrap_members_see_the_same_pairs() -> None:
    """Two members with one head learn the same; with resamples they do not."""
    for bootstrap in (False, True):
        made = ensemble("last", 2)
        with torch.no_grad():
            made.head.weight[1] = made.head.weight[0]
        fit_reward(made, letter_pairs(16), replace(CONFIG, epochs=2, bootstrap=bootstrap), seed=1)
        assert torch.equal(made.head.weight[0], made.head.weight[1]) is not bootstrap


def test_a_batch_that_no_member_drew_teaches_nothing() -> None:
    """Pairs one at a time: where all counts are 0 the step has no gradient, and the fit goes on."""
    made, pairs = ensemble("last", 2), letter_pairs(8)
    assert (bootstrap_weights(2, 8, seed=2).sum(0) == 0).any()
    metrics = fit_reward(made, pairs, replace(CONFIG, epochs=1, batch=1), seed=2)
    assert 0 < metrics["loss"] < 10
