"""Policy optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlback.errors import ConfigError, DataError, TrainingDiverged
from rlback.settings import RLOOConfig
from rlback.training import rloo
from rlback.training.rloo import StepRecord, optimise
from rlback.training.state import weights_digest
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


def observed(config: RLOOConfig, **changed: Any) -> list[StepRecord]:
    """The records of a run on the letter-counting reward."""
    records: list[StepRecord] = []
    arguments = {"policy": policy(), "reference": policy(), "reward_model": CountsLetter()}
    optimise(**(arguments | {"prompts": PROMPTS} | changed), config=config, seed=3, observe=records.append)
    return records


def test_it_learns_to_write_what_is_rewarded() -> None:
    """Six letters may be written: about one in ten is the rewarded one at first, at least four at the end."""
    records = observed(CONFIG)
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
    observed(replace(CONFIG, steps=2), policy=made, reward_model=CountsLetter(letter=-1))
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


def _sampled_with(change: Callable[[Any], None]) -> Callable[..., Any]:
    real = rloo.sample

    def sample(*arguments: Any, **options: Any) -> Any:
        samples = real(*arguments, **options)
        change(samples)
        return samples

    return sample


def test_log_probs_that_are_not_those_of_sampling_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs 0.02 nats off: the KL of step 0 is not 0; from another reference, the ratio is not 1."""
    monkeypatch.setattr(rloo, "sample", _sampled_with(lambda s: s.logps.sub_(0.02 * s.mask)))
    with pytest.raises(TrainingDiverged, match=r"at step 0 the policy equals its reference.*0\.02"):
        observed(CONFIG)
    with pytest.raises(TrainingDiverged, match=r"at step 0 .*ratio - 1.*0\.02"):
        observed(CONFIG, reference=policy(seed=1))


def test_scores_that_are_not_finite_are_caught() -> None:
    """One NaN among the scores stops the run at its step, before the policy is touched."""

    class Broken(CountsLetter):
        def score(self, *arguments: Any) -> torch.Tensor:
            scores = super().score(*arguments)
            scores[0] = math.nan
            return scores

    made = policy()
    with pytest.raises(TrainingDiverged, match="step 0"):
        observed(CONFIG, policy=made, reward_model=Broken())
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
