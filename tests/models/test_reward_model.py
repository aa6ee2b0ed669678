from __future__ import annotations

import math

import pytest
import torch

from rlback.errors import DataError, TrainingDiverged
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.settings import RewardShape
from tests.models.builders import PROMPTS, policy

SHAPES = [
    RewardShape(pooling, surprise)
    for pooling, surprise in (("last", False), ("mean", False), ("sum", False), ("sum", True))
]
ALL = [*SHAPES, RewardShape("mean", bag=True)]
COMPLETIONS = [[3, 23], [7, 7, 8, 23], [1], [2, 2, 2, 2, 2, 23], [0, 23]]


def trained(shape: RewardShape) -> RewardModel:
    """A reward model in which every parameter matters."""
    made = new_reward_model(policy(), shape, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(("head", "gain", "token_table", "bag")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("shape", ALL, ids=str)
def test_score_is_independent_of_the_batch(shape: RewardShape):
    """The same ids score the same alone, among others, in any order and at any batch size."""
    made = trained(shape)
    together = made.score(PROMPTS, COMPLETIONS)
    alone = torch.cat([made.score([p], [c]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    backwards = made.score(PROMPTS[::-1], COMPLETIONS[::-1], max_padded=12).flip(0)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, backwards, atol=1e-5)
    assert together.std() > 1e-3


@pytest.mark.parametrize("shape", ALL, ids=str)
def test_end_token_is_scored(shape: RewardShape):
    """A finished completion and the same one cut before its end token get different scores."""
    made = trained(shape)
    finished, cut = made.score([PROMPTS[0]] * 2, [[3, 4, 23], [3, 4]]).tolist()
    assert abs(finished - cut) > 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rescale_gives_mean_zero_variance_one(shape: RewardShape):
    """On the reference samples scores have mean 0 and variance 1; doing it twice changes nothing."""
    made = trained(shape)
    before = made.score(PROMPTS, COMPLETIONS)
    made.rescale(PROMPTS, COMPLETIONS)
    scores = made.score(PROMPTS, COMPLETIONS)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert scores.argsort().tolist() == before.argsort().tolist()
    made.rescale(PROMPTS, COMPLETIONS)
    assert torch.allclose(made.score(PROMPTS, COMPLETIONS), scores, atol=1e-5)
    assert torch.allclose(made(PROMPTS, COMPLETIONS), before, atol=1e-5)  # raw scores do not move


def test_rescale_refuses_a_collapsed_model():
    """A model that says the same about everything, or nothing finite, has no scale."""
    made = new_reward_model(policy(), RewardShape("last"), seed=1)
    with torch.no_grad():
        made.head.weight.zero_()
    with pytest.raises(TrainingDiverged, match=r"reward model: .* on 5 reference samples have standard deviation 0 around 0"):
        made.rescale(PROMPTS, COMPLETIONS)
    with torch.no_grad():
        made.head.weight.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"reward model: 5 of 5 scores .* not finite; the first is nan"):
        made.rescale(PROMPTS, COMPLETIONS)
    with pytest.raises(TrainingDiverged, match="on 0 reference samples"):
        made.rescale([], [])
    assert (made.shift.item(), made.scale.item()) == (0.0, 1.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pooling_reads_completion_states(shape: RewardShape):
    """With a head that reads coordinate 0, the score is that coordinate at the stated places."""
    made = new_reward_model(policy(), shape, seed=1)
    with torch.no_grad():
        made.head.weight.zero_()[0, 0] = 1.0
    ids = torch.tensor([[22, 1, 2, 3, 3, 4, 23]])
    states = made.trunk(ids).last_hidden_state[0, :, 0].tolist()
    expected = {"last": states[6], "mean": sum(states[4:]) / 3, "sum": sum(states[4:]) / 8}[shape.pooling]
    assert made([PROMPTS[0]], [[3, 4, 23]]).item() == pytest.approx(expected, abs=1e-5)


def test_sum_adds_token_offsets_and_slopes():
    """With head 0: token 3 worth 16, token 4 worth 8 per nat of excess log-probability, the end token nothing."""
    made = new_reward_model(policy(), RewardShape("sum", True), seed=1)
    with torch.no_grad():
        made.head.weight.zero_()
        made.token_table.weight[3] = torch.tensor([16.0, 0.0])
        made.token_table.weight[4] = torch.tensor([0.0, 8.0])
    surprise = made.surprise([PROMPTS[0]], [[3, 4, 3, 23]])
    score = made([PROMPTS[0]], [[3, 4, 3, 23]]).item()
    assert score == pytest.approx(4.0 + surprise[0, 1].item(), abs=1e-5)
    assert abs(surprise[0, 1]) > 0.01


def test_surprise_is_zero_on_average_over_what_the_policy_would_write():
    """Weighted by the policy's own probabilities, the excess log-probabilities of all tokens sum to 0."""
    made = new_reward_model(policy(), RewardShape("sum", True), seed=1)
    tokens = made.token_table.weight.shape[0]
    excess = made.surprise([PROMPTS[0]] * tokens, [[token] for token in range(tokens)])[:, 0]
    chance = policy().model(torch.tensor([list(PROMPTS[0])])).logits[0, -1].softmax(-1)
    assert float((chance.detach() * excess.detach()).sum()) == pytest.approx(0.0, abs=1e-5)
    assert float(excess.max() - excess.min()) > 0.1


def test_surprise_stays_with_the_policy_it_came_from():
    """Changing the policy afterwards, or training the trunk, leaves the surprise as it was."""
    source = policy()
    made = new_reward_model(source, RewardShape("sum", True), seed=1)
    expected = made.surprise(PROMPTS, COMPLETIONS)
    with torch.no_grad():
        for parameter in [*source.model.parameters(), *made.trunk.parameters()]:
            parameter.mul_(1.5)
    assert torch.equal(made.surprise(PROMPTS, COMPLETIONS), expected)


def test_surprise_may_be_given():
    """Precomputed surprise, also padded wider than needed, gives the same scores as computing it again."""
    made = trained(RewardShape("sum", True))
    wide = list(made.surprise(PROMPTS, COMPLETIONS))
    rows = [2, 1]
    given = made([PROMPTS[r] for r in rows], [COMPLETIONS[r] for r in rows], [wide[r] for r in rows])
    assert torch.allclose(given, made(PROMPTS, COMPLETIONS)[rows], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_trainable_weight_gets_a_gradient(shape: RewardShape):
    """All parameters but the frozen policy's learn, also the parts that start at zero."""
    made = trained(shape)
    made(PROMPTS, COMPLETIONS).square().sum().backward()
    for name, parameter in made.named_parameters():
        if name.startswith("frozen."):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_new_reward_model_copies_the_trunk():
    """The trunk starts as the policy's and does not share its memory."""
    source = policy()
    made = new_reward_model(source, RewardShape("last"), seed=1)
    theirs = dict(source.model.model.named_parameters())
    for name, parameter in made.trunk.named_parameters():
        assert torch.equal(parameter, theirs[name])
        assert parameter.data_ptr() != theirs[name].data_ptr()


def test_head_is_drawn_from_the_seed():
    """Head weights have standard deviation 1 / sqrt(33) for d = 32 (over 100 seeds) and repeat for a seed."""
    source = policy()
    heads = torch.cat(
        [new_reward_model(source, RewardShape("last"), seed).head.weight.detach() for seed in range(100)]
    )
    assert heads.std().item() == pytest.approx(0.174, rel=0.05)
    assert torch.equal(heads[7:8], new_reward_model(source, RewardShape("mean"), 7).head.weight)


def test_bad_input_is_refused():
    """An unknown pooling and an empty completion are named."""
    with pytest.raises(ValueError, match="first"):
        RewardShape("first")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="completion 1 has no tokens"):
        new_reward_model(policy(), RewardShape("mean"), 0)(PROMPTS[:2], [[1], []])


def test_a_bag_counts_what_is_said_not_how_often_nor_where():
    """By hand: tokens 3, 3, 7 have log counts (log 3, log 2), at length 1, times their weights."""
    made = new_reward_model(policy(), RewardShape("mean", bag=True), seed=1)
    with torch.no_grad():
        made.head.weight.zero_()
        made.bag.weight[3], made.bag.weight[7] = 2.0, -1.0
    norm = math.hypot(math.log(3), math.log(2))
    of_trunk, of_bag = made(PROMPTS[:1] * 4, [[3, 3, 7], [7, 3, 3], [3] * 9, [3]]).tolist()
    assert of_trunk == [0.0] * 4
    ordered, turned, twice, short = of_bag
    assert ordered == pytest.approx((2 * math.log(3) - math.log(2)) / norm, rel=1e-5)
    assert turned == pytest.approx(ordered, rel=1e-5)
    assert twice == short == pytest.approx(2.0)


def test_a_bag_beside_a_table_of_values_is_refused():
    with pytest.raises(ValueError, match="has a value per token already"):
        RewardShape("sum", bag=True)
    with pytest.raises(ValueError, match="leave share_trunk"):
        RewardShape("mean", members=2, share_trunk=False, bag=True)
