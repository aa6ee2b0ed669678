"""bf16: the passes a step makes, and the checks that its log-probabilities belong together."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlback.errors import ConfigError, TrainingDiverged
from rlback.models.digests import weights_digest
from rlback.models.sampler import Samples, sample
from rlback.models.value_model import ValueModel
from rlback.settings import GRPOConfig, OnlineDPOConfig, OnPolicy, PPOConfig, RLOOConfig
from rlback.training import objectives, rollout
from rlback.training.on_policy import optimise
from rlback.training.rollout import collect
from tests.training.tiny import PROMPTS, CountsLetter, policy

SHARED: dict[str, Any] = {
    "steps": 2, "prompts_per_step": 6, "samples_per_prompt": 4, "lr": 1e-2, "beta": 0.1, "max_new_tokens": 6, "precision": "bf16",
}  # fmt: skip
RLOO = RLOOConfig(**SHARED)
METHODS: dict[str, OnPolicy] = {
    "rloo": RLOO,
    "rloo by token": replace(RLOO, objective="token"),
    "grpo, KL in the loss": GRPOConfig(**SHARED),
    "ppo": PPOConfig(**SHARED),
}


def trained(config: OnPolicy, **changed: Any) -> str:
    """The digest of the weights after the steps of `config`."""
    made = policy()
    value = ValueModel(made) if isinstance(config, PPOConfig) else None
    optimise(made, policy(), CountsLetter(), PROMPTS, config, seed=3, value=value, **changed)
    return weights_digest(made.model)


def passes(monkeypatch: pytest.MonkeyPatch, config: OnPolicy) -> dict[str, int]:
    """How often one step passes completions through a model: before its updates (policy and reference) and in them."""
    made = {"before": 0, "update": 0}

    def counting(when: str, plain: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            made[when] += 1
            return plain(*arguments)

        return counted

    with monkeypatch.context() as patched:
        for when, module in (("before", rollout), ("update", objectives)):
            patched.setattr(module, "token_logps", counting(when, module.token_logps))
        trained(replace(config, steps=1))
    return made


def test_the_only_update_makes_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 the policy's pass before it is the update's; with two updates each makes its own. fp32 takes the sampler's."""
    assert passes(monkeypatch, RLOO) == {"before": 2, "update": 0}
    assert passes(monkeypatch, replace(RLOO, epochs=2)) == {"before": 2, "update": 2}
    assert passes(monkeypatch, replace(RLOO, precision="fp32")) == {"before": 1, "update": 1}
    assert passes(monkeypatch, OnlineDPOConfig(**SHARED)) == {"before": 2, "update": 1}


def test_few_parts_keep_their_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 completions of at most 8 tokens with their prompts, each a part: all but two are passed again in the update."""
    assert rollout.HELD_PARTS == 2
    assert passes(monkeypatch, replace(RLOO, max_padded=1)) == {"before": 48, "update": 22}
    drawn = collect(policy(), policy(), CountsLetter(), PROMPTS, replace(RLOO, max_padded=1), seed=3, step=0)
    assert [part.logps is not None for part in drawn.parts] == [True] * 2 + [False] * 22


@pytest.mark.parametrize("method", METHODS)
def test_the_pass_ahead_is_the_one_it_replaces(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Whether all parts, some or none are held, two steps end in the same weights, bit for bit."""
    config = replace(METHODS[method], max_padded=60)
    found = set()
    for held in (0, 2, 100):
        monkeypatch.setattr(rollout, "HELD_PARTS", held)
        found.add(trained(config))
    assert len(found) == 1


@pytest.mark.parametrize("max_padded", [1, 10_000])
def test_without_rounding_it_is_what_fp32_does(monkeypatch: pytest.MonkeyPatch, max_padded: int) -> None:
    """The order of passes that bf16 has, computed in fp32, ends in fp32's weights, however the batch is cut."""

    def in_fp32(*arguments: Any, **options: Any) -> Samples:
        return sample(*arguments, **options | {"precision": "fp32"})

    ended = []
    for config in (replace(RLOO, precision="fp32"), replace(RLOO, max_padded=max_padded)):
        if config.precision == "bf16":
            for module in (rollout, objectives):
                monkeypatch.setattr(module, "precision", lambda kind, device: nullcontext())
        made = policy()
        optimise(made, policy(), CountsLetter(), PROMPTS, replace(config, steps=1), seed=3, sampler=in_fp32)
        ended.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.allclose(*ended, atol=1e-5)


def test_samples_are_drawn_in_the_precision_of_training() -> None:
    """The sampler is asked for bf16, and what rounding its log-probs and the update's have apart is on the rollout."""
    asked = []

    def asking(*arguments: Any, **options: Any) -> Samples:
        asked.append(options["precision"])
        return sample(*arguments, **options)

    gaps = []
    for precision in ("bf16", "fp32"):
        config = replace(RLOO, precision=precision)
        drawn = collect(policy(), policy(), CountsLetter(), PROMPTS, config, seed=3, step=0, sampler=asking)
        gaps.append(drawn.gap)
    assert asked == ["bf16", "fp32"]
    assert gaps[0].shape == (24,)
    assert 0 < gaps[0].mean() < 0.02
    assert gaps[1].abs().max() == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_samples_of_another_distribution_are_caught(updates: int) -> None:
    """In bf16 0.02 nats a token may be rounding, 0.3 are not; no weight moves."""

    def shifted(by: float) -> Any:
        def sampler(*arguments: Any, **options: Any) -> Samples:
            samples = sample(*arguments, **options)
            samples.logps.sub_(by * samples.mask)
            return samples

        return sampler

    config = replace(RLOO, epochs=updates)
    trained(config, sampler=shifted(0.02))
    made = policy()
    with pytest.raises(TrainingDiverged, match=r"at step 0 the update's log-probs are not those of sampling: they are 0\.(3|29)"):
        optimise(made, policy(), CountsLetter(), PROMPTS, config, seed=3, sampler=shifted(0.3))
    assert weights_digest(made.model) == weights_digest(policy().model)


def test_a_reference_that_is_not_the_policy_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass ahead that is 0.01 nats from the reference's, whose weights are equal, shows as KL at step 0."""
    plain = rollout.token_logps

    def careless(*arguments: Any) -> Any:
        logps, mask = plain(*arguments)
        return (logps - 0.01 if torch.is_grad_enabled() else logps), mask

    monkeypatch.setattr(rollout, "token_logps", careless)
    with pytest.raises(TrainingDiverged, match=r"at step 0 the policy equals its reference.*0\.01"):
        trained(RLOO)


def test_a_precision_that_is_not_settled_draws_nothing() -> None:
    """`auto` is for whoever starts a training to settle."""
    with pytest.raises(ConfigError, match="auto is not settled"):
        trained(replace(RLOO, precision="auto"))
