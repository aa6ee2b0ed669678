"""Policy optimisation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlback.errors import ConfigError, DataError, TrainingDiverged
from rlback.models.digests import weights_digest
from rlback.models.sampler import Samples, sample
from rlback.models.value_model import ValueModel
from rlback.settings import GRPOConfig, OnPolicy, PPOConfig, RLOOConfig
from rlback.training import on_policy
from rlback.training.on_policy import StepRecord, optimise
from tests.training.tiny import PROMPTS, A, CountsLetter, policy

CONFIG = RLOOConfig(
    steps=40,
    prompts_per_step=6,
    samples_per_prompt=4,
    lr=1e-2,
    beta=0.0,
    length_normaliser=4,
    max_new_tokens=6,
)


def observed(config: OnPolicy, **changed: Any) -> list[StepRecord]:
    """The records of a run on the letter-counting reward."""
    records: list[StepRecord] = []
    arguments = {"policy": policy(), "reference": policy(), "scorer": CountsLetter()}
    optimise(**(arguments | {"prompts": PROMPTS} | changed), config=config, seed=3, observe=records.append)
    return records


SHARED = {name: getattr(CONFIG, name) for name in ("steps", "prompts_per_step", "lr", "beta", "max_new_tokens")}
METHODS = {
    "rloo": CONFIG,
    "rloo over two epochs": replace(CONFIG, steps=20, epochs=2),
    "rloo by token": replace(CONFIG, objective="token"),
    "rloo in bf16": replace(CONFIG, precision="bf16"),
    "grpo": GRPOConfig(**SHARED),
    "dr_grpo": GRPOConfig(**SHARED, variant="dr_grpo"),
    "ppo": PPOConfig(**SHARED | {"steps": 20}, samples_per_prompt=4, epochs=2),
}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_to_write_what_is_rewarded(method: str) -> None:
    """Six letters may be written: about one in ten is the rewarded one at first, at least four at the end."""
    config = METHODS[method]
    made = policy()
    value = ValueModel(made) if isinstance(config, PPOConfig) else None
    records = observed(config, policy=made, value=value)
    assert records[0].scores.mean() < 1.5
    assert records[-1].scores.mean() > 4
    assert records[-1].kl.mean() > 3


def test_the_kl_penalty_holds_it_back() -> None:
    """With a unit of reward per nat the policy stays within two nats and gains less."""
    free, held = observed(CONFIG)[-1], observed(replace(CONFIG, beta=1.0))[-1]
    assert held.kl.mean() < 2 < free.kl.mean()
    assert held.scores.mean() < free.scores.mean()


def test_what_a_step_records() -> None:
    """Rewards, advantages and weights of a record fit together; step 0 has no KL from an equal reference."""
    config = replace(CONFIG, steps=3, beta=0.5, no_end_penalty=2.0, advantage_std=False)
    records = observed(config)
    assert [r.step for r in records] == [0, 1, 2]
    assert records[0].kl.abs().max() < 1e-4
    assert records[2].kl.abs().max() > 1e-4
    for r in records:
        assert len(r.prompts) == len(r.completions) == len(r.finished) == 24
        assert all(r.prompts[i] == r.prompts[i - i % 4] for i in range(24))
        assert r.scores.tolist() == [float(c.count(A)) for c in r.completions]
        cut = torch.tensor([0.0 if end else 2.0 for end in r.finished])
        assert torch.allclose(r.rewards, r.scores - 0.5 * r.kl - cut, atol=1e-6)
        assert r.advantages.view(6, 4).sum(-1).abs().max() < 1e-5
        assert torch.equal(r.weights, r.advantages.abs())
    assert any(end for r in records for end in r.finished)
    assert not all(end for r in records for end in r.finished)


def test_advantages_are_scaled_by_the_batch() -> None:
    """With advantage_std the advantages of a batch have variance 1."""
    record = observed(replace(CONFIG, steps=1))[0]
    assert record.advantages.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_every_prompt_is_met_once_a_pass() -> None:
    """Six prompts at four a step: three steps meet every prompt twice."""
    records = observed(replace(CONFIG, steps=3, prompts_per_step=4))
    met = [tuple(p) for r in records for p in r.prompts[::4]]
    assert sorted(met) == sorted([tuple(p) for p in PROMPTS] * 2)


def test_every_step_draws_anew() -> None:
    """With a policy that as good as stands still, two steps on the same prompt sample different completions."""
    first, second = observed(replace(CONFIG, steps=2, lr=1e-9, prompts_per_step=1), prompts=PROMPTS[:1])
    assert first.prompts == second.prompts
    assert first.completions != second.completions


def test_the_cut_into_parts_changes_nothing() -> None:
    """One completion a part or all in one: the same weights after a step, but for rounding."""
    trained = []
    for max_padded in (1, 10_000):
        made = policy()
        observed(replace(CONFIG, steps=1, max_padded=max_padded), policy=made)
        trained.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(*trained, atol=1e-5)


def test_equal_rewards_move_nothing() -> None:
    """When all completions are worth the same there is nothing to learn, and no weight moves."""
    made = policy()
    observed(replace(CONFIG, steps=2), policy=made, scorer=CountsLetter(letter=-1))
    assert weights_digest(made.model) == weights_digest(policy().model)


def test_checkpoints_come_after_their_updates() -> None:
    """Every two of five steps the policy is handed over, as it is after that many updates."""
    made, seen = policy(), []
    optimise(
        made,
        policy(),
        CountsLetter(),
        PROMPTS,
        replace(CONFIG, steps=5, checkpoint_every=2),
        seed=3,
        on_checkpoint=lambda step, p: seen.append((step, weights_digest(p.model))),
    )
    shorter = policy()
    observed(replace(CONFIG, steps=4), policy=shorter)
    assert [step for step, _ in seen] == [2, 4]
    assert seen[1][1] == weights_digest(shorter.model)


def test_a_kl_budget_ends_the_run() -> None:
    """The run stops before the update on the first batch above the budget; below it nothing stops."""
    config = replace(CONFIG, steps=40, kl_budget=1.0)
    result = optimise(policy(), policy(), CountsLetter(), PROMPTS, config, seed=3)
    assert result.stopped == "kl_budget"
    assert 0 < result.steps < 40
    assert result.kl_ref > 1.0
    within = optimise(policy(), policy(), CountsLetter(), PROMPTS, replace(config, steps=2), seed=3)
    assert (within.stopped, within.steps) == ("steps", 2)


def _shifted(*arguments: Any, **options: Any) -> Samples:
    samples = sample(*arguments, **options)
    samples.logps.sub_(0.02 * samples.mask)
    return samples


def test_log_probs_that_are_not_those_of_sampling_are_caught() -> None:
    """Log-probs 0.02 nats off: the KL of step 0 is not 0; from another reference, the ratio is not 1."""
    with pytest.raises(TrainingDiverged, match=r"at step 0 the policy equals its reference.*0\.02"):
        observed(CONFIG, sampler=_shifted)
    with pytest.raises(TrainingDiverged, match=r"at step 0 .*ratio - 1.*0\.02"):
        observed(CONFIG, sampler=_shifted, reference=policy(seed=1))


def test_scores_that_are_not_finite_are_caught() -> None:
    """One NaN among the scores stops the run at its step, before the policy is touched."""

    class Broken(CountsLetter):
        def score(self, *arguments: Any) -> torch.Tensor:
            scores = super().score(*arguments)
            scores[0] = math.nan
            return scores

    made = policy()
    with pytest.raises(TrainingDiverged, match="step 0"):
        observed(CONFIG, policy=made, scorer=Broken())
    assert weights_digest(made.model) == weights_digest(policy().model)


def test_settings_that_cannot_work_are_refused() -> None:
    """One sample a prompt, a reference that is the policy itself, and no prompts."""
    with pytest.raises(ValueError, match="samples_per_prompt"):
        replace(CONFIG, samples_per_prompt=1)
    made = policy()
    with pytest.raises(ConfigError, match="copy"):
        optimise(made, made, CountsLetter(), PROMPTS, CONFIG, seed=1)
    with pytest.raises(DataError, match="no prompts"):
        optimise(made, policy(), CountsLetter(), [], CONFIG, seed=1)


def test_a_graded_scorer_that_gives_everything_one_score_has_collapsed() -> None:
    """Different completions with one and the same score stop the run; an ungraded outcome may do that."""

    class Flat(CountsLetter):
        graded = True

    with pytest.raises(TrainingDiverged, match=r"all 24 completions at step 0 have the score 0.*collapsed"):
        observed(CONFIG, scorer=Flat(letter=-1))


def test_two_rounds_from_one_checkpoint_start_in_the_same_state() -> None:
    """The start state is the checkpoint's alone: another scorer or seed changes nothing, other weights do."""
    config = replace(CONFIG, steps=1)

    def start(seed: int, letter: int, weights: int) -> str:
        return optimise(policy(weights), policy(weights), CountsLetter(letter), PROMPTS, config, seed=seed).start_state

    assert start(1, 0, 0) == start(2, 3, 0)
    assert start(1, 0, 0) != start(1, 0, 1)


def test_adam_moments_that_leak_from_a_discarded_round_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser carried over from the round before, moments and all, gives another start state."""
    carried: list[torch.optim.Optimizer] = []
    made_by = on_policy.adam

    def leaking(groups: Any, **options: Any) -> torch.optim.Optimizer:
        fresh = made_by(groups, **options)
        if carried:
            fresh.load_state_dict(carried[-1].state_dict())
        carried.append(fresh)
        return fresh

    config = replace(CONFIG, steps=1)
    clean = [optimise(policy(), policy(), CountsLetter(), PROMPTS, config, seed=1).start_state for _ in range(2)]
    monkeypatch.setattr(on_policy, "adam", leaking)
    leaked = [optimise(policy(), policy(), CountsLetter(), PROMPTS, config, seed=1).start_state for _ in range(2)]
    assert clean[0] == clean[1] == leaked[0]
    assert leaked[1] != leaked[0]


def test_kl_in_the_loss_holds_it_back_too() -> None:
    """With k2 differentiated at a unit of loss per nat squared the policy stays nearer than without."""
    free = observed(replace(CONFIG, steps=20))[-1]
    held = observed(replace(CONFIG, steps=20, beta=2.0, kl_in="loss"))[-1]
    assert held.kl.mean() < 0.5 * free.kl.mean()


def test_beta_follows_its_target() -> None:
    """Far above the target the coefficient grows by at most a fifth of batch / horizon a step."""
    records = observed(replace(CONFIG, steps=12, beta=0.01, kl_target=0.05, kl_horizon=24.0))
    betas = [r.beta for r in records]
    assert betas[0] == 0.01
    assert all(later <= 1.2 * earlier + 1e-12 for earlier, later in itertools.pairwise(betas))
    assert betas[-1] > betas[2]


def test_clipped_completions_carry_no_weight() -> None:
    """With a narrow clip and many epochs some completions drop out of the updates, and their weight shrinks."""
    records = observed(replace(CONFIG, steps=3, epochs=6, ratio_low=0.01, ratio_high=0.01))
    assert any((r.weights < 0.99 * r.advantages.abs()).any() for r in records)
    assert all((r.weights <= r.advantages.abs() + 1e-6).all() for r in records)


def test_value_model_and_method_go_together() -> None:
    """PPO without a value model, and a value model with another method, are refused."""
    made = policy()
    with pytest.raises(ConfigError, match="value model"):
        observed(METHODS["ppo"])
    with pytest.raises(ConfigError, match="value model"):
        observed(CONFIG, policy=made, value=ValueModel(made))
