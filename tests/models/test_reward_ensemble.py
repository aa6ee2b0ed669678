"""Ensembles of reward models: members, how their scores become one, and warm starts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlback.errors import CheckpointError, TrainingDiverged
from rlback.models.llama_forward import states_at
from rlback.models.policy import Policy, new_policy
from rlback.models.reward_model import RewardModel, new_reward_model, warm_start
from rlback.models.tokenizers import word_level
from rlback.settings import RewardShape
from tests.models.builders import PROMPTS, SHAPE, WORDS, policy, tokenizer

ENSEMBLES = [
    RewardShape("last", members=3),
    RewardShape("mean", members=2, share_trunk=False, combine="worst_case"),
    RewardShape("mean", members=2, bag=True),
    RewardShape("sum", True, members=3, combine="uncertainty_weighted", uncertainty_weight=0.5),
    RewardShape("sum", True, members=2, share_trunk=False),
]
COMPLETIONS = [[3, 23], [7, 7, 8, 23], [1], [2, 2, 2, 2, 2, 23], [0, 23]]


def trained(shape: RewardShape, seed: int = 2) -> RewardModel:
    """A reward model in which every member's every parameter is its own."""
    made = new_reward_model(policy(), shape, seed=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(("head", "gain", "token_table", "bag")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name.startswith("trunk"):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def alone(made: RewardModel, member: int) -> RewardModel:
    """A single reward model with one member's weights."""
    single = new_reward_model(policy(), RewardShape(made.shape.pooling, made.shape.surprise), seed=9)
    trunk = made.trunk if made.shape.share_trunk else made.trunk[member]
    single.trunk.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        single.head.weight.copy_(made.head.weight[member : member + 1])
        if made.shape.pooling == "sum":
            columns = 2 if made.shape.surprise else 1
            first = member * columns
            single.token_table.weight.copy_(made.token_table.weight[:, first : first + columns])
        if made.shape.surprise:
            single.gain.weight.copy_(made.gain.weight[member : member + 1])
    return single


@pytest.mark.parametrize("shape", ENSEMBLES, ids=str)
def test_a_member_scores_as_it_would_alone(shape: RewardShape):
    """Row k of the raw scores is what a single reward model with member k's weights gives."""
    made = trained(shape)
    raw = made(PROMPTS, COMPLETIONS)
    assert raw.shape == (shape.count, 5)
    for member in range(shape.members):
        assert torch.allclose(raw[member], alone(made, member)(PROMPTS, COMPLETIONS), atol=1e-5)
    assert (raw.max(0).values - raw.min(0).values).min() > 1e-3


@pytest.mark.parametrize("shape", ENSEMBLES, ids=str)
def test_an_ensemble_scores_the_same_in_any_batch(shape: RewardShape):
    """One score a completion, in the order given, alone or among others."""
    made = trained(shape)
    made.rescale(PROMPTS, COMPLETIONS)
    together = made.score(PROMPTS, COMPLETIONS)
    backwards = made.score(PROMPTS[::-1], COMPLETIONS[::-1], max_padded=12).flip(0)
    assert together.shape == (5,)
    assert not together.requires_grad
    assert torch.allclose(together, backwards, atol=1e-4)


@pytest.mark.parametrize("shape", ENSEMBLES, ids=str)
def test_rescale_standardises_members_and_what_they_say_together(shape: RewardShape):
    """On the reference samples each member's scores, and the joint ones, have mean 0 and variance 1."""
    made = trained(shape)
    with torch.no_grad():
        made.head.weight[1] *= 30.0
    for _ in range(2):
        made.rescale(PROMPTS, COMPLETIONS)
        for scores in (*made.member_scores(PROMPTS, COMPLETIONS), made.score(PROMPTS, COMPLETIONS)):
            assert scores.mean().item() == pytest.approx(0, abs=1e-5)
            assert scores.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_every_weight_of_every_member_gets_a_gradient():
    """Each head, token table, gain and own trunk learns; the frozen policy does not."""
    for shape in ENSEMBLES[2:]:
        made = trained(shape)
        made(PROMPTS, COMPLETIONS).square().sum().backward()
        for name, parameter in made.named_parameters():
            if name.startswith("frozen."):
                assert parameter.grad is None
            else:
                rows = parameter.grad if name.startswith(("head", "gain")) else parameter.grad[None]
                assert (rows.flatten(1).abs().sum(1) > 0).all(), name


def with_combine(combine: str, weight: float = 0.0) -> RewardModel:
    shape = RewardShape("last", members=2, combine=combine, uncertainty_weight=weight)
    made = new_reward_model(policy(), shape, seed=1)
    made.shift.copy_(torch.tensor([1.0, 2.0]))
    made.scale.copy_(torch.tensor([2.0, 1.0]))
    return made


def test_joint_scores_by_hand():
    """Raw (1, 3) and (4, 0) at shifts 1, 2 and scales 2, 1 are (0, 1) and (2, -2).

    Their mean is (1, -0.5), their minimum (0, -2), their variance (1, 2.25): at weight 0.5, (0.5, -1.625).
    """
    raw = torch.tensor([[1.0, 3.0], [4.0, 0.0]])
    assert with_combine("mean").combine(raw).tolist() == [1.0, -0.5]
    assert with_combine("worst_case").combine(raw).tolist() == [0.0, -2.0]
    assert with_combine("uncertainty_weighted", 0.5).combine(raw).tolist() == [0.5, -1.625]
    made = with_combine("worst_case")
    made.combined_shift.fill_(-2.0)
    made.combined_scale.fill_(4.0)
    assert made.combine(raw).tolist() == [0.5, 0.0]


def test_caution_never_pays_more_than_the_mean():
    """Whatever the members say, neither the worst case nor the mean less its uncertainty is above the mean."""
    raw = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    mean = with_combine("mean").combine(raw)
    for cautious in (with_combine("worst_case"), with_combine("uncertainty_weighted", 0.1)):
        assert (cautious.combine(raw) <= mean).all()
        assert (cautious.combine(raw) < mean).any()


def test_the_first_member_starts_as_a_single_model_would():
    """Heads are drawn one a member; the first is the single model's bit for bit, and no two are equal."""
    heads = new_reward_model(policy(), RewardShape("last", members=4), seed=7).head.weight
    single = new_reward_model(policy(), RewardShape("last"), seed=7).head.weight
    assert torch.equal(heads[:1], single)
    assert len({tuple(row) for row in heads.tolist()}) == 4
    assert heads.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.3)


@pytest.mark.parametrize(
    ("shape", "tensors"),
    [
        (RewardShape("last"), {"head.weight": (1, 32)}),
        (
            RewardShape("sum", True),
            {"head.weight": (1, 32), "token_table.weight": (24, 2), "gain.weight": (1, 32)},
        ),
    ],
    ids=str,
)
def test_a_single_model_holds_what_it_always_held(shape: RewardShape, tensors: dict[str, tuple[int, ...]]):
    """Outside trunk and frozen policy: the same tensor names and shapes as before there were ensembles."""
    made = new_reward_model(policy(), shape, seed=1)
    held = {n: tuple(t.shape) for n, t in made.state_dict().items() if not n.startswith(("trunk.", "frozen."))}
    assert held == {**tensors, "shift": (), "scale": ()}
    assert {n.removeprefix("trunk.") for n in made.state_dict() if n.startswith("trunk.")} == set(
        policy().model.model.state_dict()
    )
    assert made(PROMPTS, COMPLETIONS).shape == (5,)
    assert made.member_scores(PROMPTS, COMPLETIONS).shape == (1, 5)
    assert torch.equal(made.member_scores(PROMPTS, COMPLETIONS)[0], made.score(PROMPTS, COMPLETIONS))


def test_a_collapsed_member_is_named_and_nothing_is_rescaled():
    """One member that scores all alike stops the rescaling; shifts and scales stay the last good ones."""
    made = trained(ENSEMBLES[0])
    made.rescale(PROMPTS, COMPLETIONS)
    before = made.scale.clone()
    with torch.no_grad():
        made.head.weight[0] *= 2.0
        made.head.weight[1] = 0.0
    with pytest.raises(TrainingDiverged, match=r"reward model: .*member 1 on 5 reference samples.*deviation 0 around 0"):
        made.rescale(PROMPTS, COMPLETIONS)
    with torch.no_grad():
        made.head.weight[1] = math.inf
    with pytest.raises(TrainingDiverged, match=r"reward model: \d of 5 scores of member 1 .*(inf|nan)"):
        made.rescale(PROMPTS, COMPLETIONS)
    assert torch.equal(made.scale, before)


def test_members_that_cancel_are_refused():
    """Two members of opposite opinion agree on nothing: their mean is 0 for every completion."""
    made = trained(RewardShape("last", members=2))
    with torch.no_grad():
        made.head.weight[1] = -made.head.weight[0]
    with pytest.raises(TrainingDiverged, match="the members' mean"):
        made.rescale(PROMPTS, COMPLETIONS)


def test_identity_follows_everything_the_scores_depend_on():
    """The same model has one identity; a weight, the scale, the pooling or the combination changes it."""
    made = trained(ENSEMBLES[0])
    first = made.identity()
    assert trained(ENSEMBLES[0]).identity() == first
    others = [trained(replace(ENSEMBLES[0], combine="worst_case")), trained(replace(ENSEMBLES[0], pooling="mean"))]
    made.rescale(PROMPTS, COMPLETIONS)
    rescaled = made.identity()
    with torch.no_grad():
        made.trunk.norm.weight[0] += 1e-3
    assert len({first, rescaled, made.identity(), *(other.identity() for other in others)}) == 5


@pytest.mark.parametrize("shape", [RewardShape("last"), *ENSEMBLES], ids=str)
def test_a_warm_start_scores_as_the_previous_model_did(shape: RewardShape):
    """All that was learned is taken over, without sharing memory; the scale is not."""
    previous, made = trained(shape), new_reward_model(policy(), shape, seed=3)
    previous.rescale(PROMPTS, COMPLETIONS)
    warm_start(made, previous)
    expected = previous(PROMPTS, COMPLETIONS)
    assert torch.equal(made(PROMPTS, COMPLETIONS), expected)
    assert made.scale.tolist() == torch.ones_like(previous.scale).tolist()
    with torch.no_grad():
        for parameter in previous.parameters():
            parameter.zero_()
    assert torch.equal(made(PROMPTS, COMPLETIONS), expected)


def small() -> Policy:
    return new_policy(replace(SHAPE, d_model=16), tokenizer(), 0)


def other_words() -> Policy:
    return new_policy(SHAPE, word_level([*WORDS[:-1], "other"]), 0)


@pytest.mark.parametrize(
    ("base", "shape", "message"),
    [
        (policy, RewardShape("sum", False, members=2), "has surprise False, this one True"),
        (policy, RewardShape("sum", True, members=3), "has members 3, this one 2"),
        (policy, RewardShape("sum", True, members=2, share_trunk=False), "has share_trunk False"),
        (small, RewardShape("sum", True, members=2), r"has gain\.weight of shape \(2, 16\), this one of \(2, 32\)"),
        (other_words, RewardShape("sum", True, members=2), "another vocabulary"),
        (lambda: policy(seed=4), RewardShape("sum", True, members=2), "another frozen policy"),
    ],
    ids=["surprise", "members", "trunks", "width", "words", "frozen"],
)
def test_a_warm_start_from_another_form_is_refused(base, shape: RewardShape, message: str):
    """The error says what differs, and the model is left as it was."""
    made = trained(RewardShape("sum", True, members=2))
    before = made.identity()
    with pytest.raises(CheckpointError, match=f"the previous reward model cannot be the start.*{message}"):
        warm_start(made, new_reward_model(base(), shape, seed=1))
    assert made.identity() == before


def test_another_way_to_combine_is_no_other_form():
    """A round may go on from the same members with another combination."""
    previous = trained(RewardShape("last", members=3))
    made = new_reward_model(policy(), RewardShape("last", members=3, combine="worst_case"), seed=1)
    warm_start(made, previous)
    assert torch.equal(made(PROMPTS, COMPLETIONS), previous(PROMPTS, COMPLETIONS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 0}, "greater than 0"),
        ({"combine": "worst_case"}, "members above 1"),
        ({"share_trunk": False}, "members above 1"),
        ({"members": 2, "combine": "uncertainty_weighted"}, "go together"),
        ({"members": 2, "uncertainty_weight": 0.5}, "go together"),
        ({"members": 2, "combine": "median"}, "worst_case"),
    ],
    ids=str,
)
def test_settings_that_would_do_nothing_are_refused(settings: dict, message: str):
    """A combination without members, or a weight that nothing reads, is an error and not silence."""
    with pytest.raises(ValueError, match=message):
        RewardShape("last", **settings)


def test_the_head_is_read_in_fp32_under_bf16():
    """Under bf16 autocast only the trunk computes in bf16: the scores are its states, read in fp32."""
    made = trained(RewardShape("mean", members=2))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        ids = torch.tensor([[*PROMPTS[1], 3, 23]])
        states = states_at(made.trunk, ids, torch.tensor([0, 0]), torch.tensor([2, 3]))
        scores = made([PROMPTS[1]], [[3, 23]])[:, 0]
    assert torch.allclose(scores, made.head.weight @ states.float().mean(0), atol=1e-6)
