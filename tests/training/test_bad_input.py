"""Each kind of bad input to training is its own error, naming step and value, with the last good state kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlback.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy, new_policy
from rlback.models.tokenizers import word_level
from rlback.settings import DPOConfig, ModelShape, OnPolicy, RewardConfig, RLOOConfig, SupervisedConfig
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import optimise
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.scorers import FunctionScorer
from rlback.training.state import load_state
from rlback.training.supervised import train_base
from tests.training.tiny import BOS, EOS, PROMPTS, TOKENIZER, A, CountsLetter, copying, letter_pairs, policy, reward_model

CONFIG = RLOOConfig(
    steps=40, prompts_per_step=6, samples_per_prompt=4, lr=1e-2, beta=0.0, length_normaliser=4, max_new_tokens=6
)


class From(CountsLetter):
    """Counts the letter A; from the `step`-th batch on the first score, or every score, is `value`."""

    def __init__(self, step: int, value: float, *, every: bool = False) -> None:
        super().__init__()
        self.left, self.value, self.every = step, value, every
        self.graded = every

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> torch.Tensor:
        scores = super().score(prompts, completions)
        if self.left <= 0:
            scores[slice(None) if self.every else 0] = self.value
        self.left -= 1
        return scores


def stopped(state: Path, config: OnPolicy = CONFIG, **changed: Any) -> tuple[TrainingDiverged, int, str]:
    """The error of a run that diverges, the step of the newest state on disk, and the digest of the weights in memory."""
    made = policy()
    arguments = {"scorer": CountsLetter(), "prompts": PROMPTS} | changed
    with pytest.raises(TrainingDiverged) as refused:
        optimise(made, policy(), config=config, seed=3, state_dir=state, save_every_s=0, **arguments)
    saved = load_state(state)
    return refused.value, saved.step if saved else 0, weights_digest(made.model)


def after(steps: int) -> str:
    """The digest of the weights after so many good steps."""
    made = policy()
    optimise(made, policy(), CountsLetter(), PROMPTS, replace(CONFIG, steps=steps), seed=3)
    return weights_digest(made.model)


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        (From(2, math.nan), "the score of completion 0 at step 2 is nan"),
        (From(2, math.inf), "the score of completion 0 at step 2 is inf"),
        (From(2, 1.5, every=True), "all 24 completions at step 2 have the score 1.5, different as they are"),
    ],
)
def test_scores_that_go_wrong_leave_the_step_before(tmp_path: Path, scorer: From, said: str) -> None:
    """NaN, infinity and a reward model that collapsed in the third step: weights and state are those of the second."""
    error, saved, weights = stopped(tmp_path, scorer=scorer)
    assert said in error.message
    assert error.remedy
    assert saved == 2
    assert weights == after(2)


def test_an_outcome_that_is_no_number_is_named_with_step_and_value(tmp_path: Path) -> None:
    """The function's own error says which completion; the loop says in which step."""
    calls = iter(range(10_000))
    scorer = FunctionScorer(lambda p, c: math.nan if next(calls) == 30 else float(len(c)), "sometimes", TOKENIZER.decode)
    error, saved, _ = stopped(tmp_path, scorer=scorer)
    assert error.message == "policy optimisation, step 1: the outcome reward sometimes gave nan for completion 6 of the batch"
    assert saved == 1


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (1e38, "the scores at step 1 add up to more than fp32 holds; one is 2e+38"),
        (1e30, "the gradient norm at step 1 is inf"),
    ],
)
def test_a_gradient_that_is_not_finite_leaves_the_step_before(tmp_path: Path, size: float, said: str) -> None:
    """Scores that are finite themselves, but not their sums or squares: no update is made of them."""

    class Huge(From):
        def score(self, *arguments: Any) -> torch.Tensor:
            scores = super().score(*arguments)
            return scores * size if self.left < 0 else scores

    error, saved, weights = stopped(tmp_path, replace(CONFIG, advantage_std=False), scorer=Huge(1, 0.0))
    assert said in error.message
    assert saved == 1
    made = policy()
    optimise(made, policy(), CountsLetter(), PROMPTS, replace(CONFIG, steps=1, advantage_std=False), seed=3)
    assert weights == weights_digest(made.model)


FAR = 1e39  # a rate at which fp32 weights become infinite in one update


def test_an_update_that_ruins_the_weights_is_not_kept(tmp_path: Path) -> None:
    """In whichever update, the last one too: the error names the step, and the state on disk is the one before it."""
    first = "policy optimisation: the update at step 0 leaves weights whose norm is"
    error, saved, _ = stopped(tmp_path / "only", replace(CONFIG, steps=1, lr=FAR, checkpoint_every=1))
    assert first in error.message
    assert saved == 0
    with pytest.raises(TrainingDiverged, match="base training: the update at step 0 leaves weights whose norm is"):
        train_base(policy(), copying(), SupervisedConfig(steps=1, batch=8, lr=FAR, warmup=1), seed=1, state_dir=tmp_path / "base")
    with pytest.raises(TrainingDiverged, match="dpo: the update at step 0 leaves weights whose norm is"):
        fit_dpo(policy(), policy(), letter_pairs(8), DPOConfig(lr=FAR, beta=0.5, warmup=1), seed=1, state_dir=tmp_path / "dpo")
    assert load_state(tmp_path / "base") is load_state(tmp_path / "dpo") is None


def test_no_checkpoint_is_proposed_with_ruined_weights() -> None:
    """`on_checkpoint` is not called for the update that ruined them."""
    proposed: list[int] = []
    config = replace(CONFIG, steps=1, lr=FAR, checkpoint_every=1)
    with pytest.raises(TrainingDiverged, match="leaves weights"):
        optimise(
            policy(), policy(), CountsLetter(), PROMPTS, config, seed=3, on_checkpoint=lambda done, made: proposed.append(done)
        )
    assert proposed == []


def test_weights_too_large_to_compute_with_are_left_by_no_last_update(tmp_path: Path) -> None:
    """All finite, and yet the policy gives no probabilities any more."""
    far = 1e15
    error, saved, _ = stopped(tmp_path / "policy", replace(CONFIG, steps=1, lr=far))
    assert error.message == "policy optimisation: after the update at step 0 a log-probability is not finite"
    assert saved == 0
    with pytest.raises(TrainingDiverged, match="base training: after the update at step 0 a log-probability is not finite"):
        train_base(policy(), copying(), SupervisedConfig(steps=1, batch=8, lr=far, warmup=1), seed=1)
    with pytest.raises(TrainingDiverged, match="dpo: after the update at step 0 a log-probability is not finite"):
        fit_dpo(policy(), policy(), letter_pairs(8), DPOConfig(lr=far, beta=0.5, warmup=1, batch=8, epochs=1), seed=1)


@pytest.mark.parametrize("name", ["policy", "reference"])
def test_weights_that_are_not_finite_are_told_from_scores(name: str) -> None:
    """The model whose log-probabilities are no numbers is named, not the reward model."""
    made = {"policy": policy(), "reference": policy()}
    with torch.no_grad():
        made[name].model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingDiverged, match=f"a log-probability of completion 0 at step 0 under the {name} is not finite"):
        optimise(made["policy"], made["reference"], CountsLetter(), PROMPTS, CONFIG, seed=3)


@pytest.mark.parametrize("shape", ["column", "one", "short"])
def test_scores_that_are_not_one_a_completion_are_refused(shape: str) -> None:
    """They would be broadcast, and something else would be maximised."""

    class Misshapen(CountsLetter):
        def score(self, *arguments: Any) -> torch.Tensor:
            scores = super().score(*arguments)
            return {"column": scores[:, None], "one": scores.mean(), "short": scores[1:]}[shape]

    with pytest.raises(ConfigError, match=r"at step 0 scores have the shape .* not \(24,\)") as refused:
        optimise(policy(), policy(), Misshapen(), PROMPTS, CONFIG, seed=3)
    assert "Misshapen" in str(refused.value.remedy)


def test_models_and_tokens_that_do_not_belong_together_are_refused_before_the_first_step() -> None:
    """A token without an embedding; a reference that reads the ids as other tokens, or has less room."""
    shorter = new_policy(ModelShape(16, 1, 2, 32, 6), TOKENIZER, 0)
    other = new_policy(ModelShape(16, 1, 2, 32, 24), word_level(list("fedcba")), 0)
    scorer = From(0, math.nan)  # the first step would fail
    with pytest.raises(DataError, match="prompt 6 has the token 99; the model has 10 tokens"):
        optimise(policy(), policy(), scorer, [*PROMPTS, [BOS, 99]], CONFIG, seed=3)
    with pytest.raises(DataError, match="prompt 0 has 2 tokens; with 6 new ones that is more than the reference's 6 positions"):
        optimise(policy(), shorter, scorer, PROMPTS, CONFIG, seed=3)
    with pytest.raises(ConfigError, match="the reference policy has another vocabulary"):
        optimise(policy(), other, scorer, PROMPTS, CONFIG, seed=3)
    with pytest.raises(ConfigError, match="the reference policy has another vocabulary"):
        fit_dpo(policy(), other, letter_pairs(4), DPOConfig(lr=1e-3, beta=0.5), seed=1)
    with pytest.raises(DataError, match="preference pair 1 has the token -1"):
        fit_dpo(policy(), policy(), [*letter_pairs(1), TokenPair([BOS], [A, EOS], [-1])], DPOConfig(lr=1e-3, beta=0.5), seed=1)


def test_a_batch_of_pairs_without_weight_teaches_dpo_nothing() -> None:
    """Its loss is 0, not 0 of 0; the batches with weight are learned from."""
    pairs = [replace(pair, weight=float(number % 2)) for number, pair in enumerate(letter_pairs(8))]
    found = fit_dpo(policy(), policy(), pairs, DPOConfig(lr=1e-2, beta=0.5, batch=1, epochs=1), seed=1)
    assert 0 < found["loss"] < 1
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("budget", [0.5, 2.0])
def test_a_kl_above_the_budget_ends_or_fails_the_run(tmp_path: Path, budget: float) -> None:
    """By `on_kl_budget`: the same step and value as a result, or as an error with the state of that step kept."""
    config = replace(CONFIG, kl_budget=budget)
    result = optimise(policy(), policy(), CountsLetter(), PROMPTS, config, seed=3)
    assert result.stopped == "kl_budget"
    error, saved, _ = stopped(tmp_path, replace(config, on_kl_budget="fail"))
    assert f"at step {result.steps} is {result.kl_ref:.4g} nats a completion, above kl_budget {budget:g}" in error.message
    assert saved == result.steps
    with pytest.raises(ValueError, match="needs a kl_budget"):
        replace(CONFIG, on_kl_budget="fail")


def test_a_policy_that_writes_nothing_has_its_own_error(tmp_path: Path) -> None:
    """Rewarded for silence it ends at once, surely so after some steps, and the run says so instead of idling."""

    class LikesNothing(CountsLetter):
        def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> torch.Tensor:
            return torch.tensor([-float(len(ids)) for ids in completions])

    error, saved, _ = stopped(tmp_path, replace(CONFIG, steps=200, lr=5e-2), scorer=LikesNothing())
    assert f"all 24 completions at step {saved} are empty" in error.message
    assert "0.99" in error.message


def test_empty_and_overlong_completions_are_named_by_pair() -> None:
    """Before the first step, for reward models and DPO alike; the model has 24 positions."""
    good = letter_pairs(8)
    for bad, named in (
        (TokenPair([BOS], [], [EOS]), "preference pair 8 has an empty prompt or completion"),
        (TokenPair([BOS] * 20, [A, EOS], [A] * 4 + [EOS]), "pair 8 has a side of 25 tokens .* the model has 24 positions"),
    ):
        with pytest.raises(DataError, match=named):
            fit_reward(reward_model(policy()), [*good, bad], RewardConfig(lr=1e-3), seed=1)
        with pytest.raises(DataError, match=named):
            fit_dpo(policy(), policy(), [*good, bad], DPOConfig(lr=1e-3, beta=0.5), seed=1)


def test_a_prompt_longer_than_the_context_is_named_before_the_first_step(tmp_path: Path) -> None:
    """Also where it would have been met in a late step only; nothing was scored and nothing saved."""
    prompts = [*PROMPTS, [BOS] * 19]
    with pytest.raises(DataError, match="prompt 6 has 19 tokens; with 6 new ones that is more than the model's 24 positions"):
        optimise(policy(), policy(), From(0, math.nan), prompts, CONFIG, seed=3, state_dir=tmp_path, save_every_s=0)
    assert load_state(tmp_path) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"eos_token": None}, "has no end token"), ({"pad_token": None}, "has no pad token"), ({"pad_token": "<eos>"}, "pads with")],
)
def test_a_tokenizer_that_cannot_end_or_pad_makes_no_policy(changed: dict[str, Any], named: str) -> None:
    """Masks by end and padding would be wrong in every loop, so there is no policy with it."""
    made, tokenizer = policy(), word_level(list("abcdef"))
    for name, value in changed.items():
        setattr(tokenizer, name, value)
    with pytest.raises(CheckpointError, match=named):
        Policy(made.model, tokenizer)
