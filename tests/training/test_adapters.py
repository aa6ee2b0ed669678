"""Training an adapter with the loops that train whole policies."""

from __future__ import annotations

from typing import Any

import pytest

from rlback.models.adapters import add_adapter, without_adapter
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy
from rlback.models.sampler import sample
from rlback.settings import AdapterConfig, DPOConfig, RLOOConfig, SupervisedConfig
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import StepRecord, optimise
from rlback.training.supervised import evaluate_nll, train_base
from tests.training.tiny import EOS, PROMPTS, CountsLetter, adapted, copying, letter_pairs, policy

SUPERVISED = SupervisedConfig(steps=60, batch=24, lr=3e-2, warmup=5)
RLOO = RLOOConfig(
    steps=40, prompts_per_step=6, samples_per_prompt=4, lr=3e-2, beta=0.0, length_normaliser=4, max_new_tokens=6
)


def test_supervised_training_of_an_adapter_learns() -> None:
    """The adapter learns to copy letters, and the base keeps its bits and what it computes."""
    made = adapted()
    before, start = weights_digest(without_adapter(made).model), evaluate_nll(made, copying())
    train_base(made, copying(), SUPERVISED, seed=1)
    assert evaluate_nll(made, copying()) < 0.6 * start
    assert weights_digest(without_adapter(made).model) == before == weights_digest(policy().model)
    assert evaluate_nll(without_adapter(made), copying()) == start


def optimised(made: Policy, config: RLOOConfig = RLOO, **options: Any) -> list[StepRecord]:
    records: list[StepRecord] = []
    optimise(made, without_adapter(made), CountsLetter(), PROMPTS, config, seed=3, observe=records.append, **options)
    return records


def test_policy_optimisation_of_an_adapter_learns() -> None:
    """Against its own base as reference the adapter learns to write what is rewarded; the base keeps its bits."""
    made = adapted()
    records = optimised(made)
    assert records[0].kl.abs().max() < 1e-4
    assert records[0].scores.mean() < 1.5
    assert records[-1].scores.mean() > 4
    assert records[-1].kl.mean() > 1
    assert weights_digest(without_adapter(made).model) == weights_digest(policy().model)
    drawn = sample(without_adapter(made), PROMPTS, max_new_tokens=6, seed=4, samples_per_prompt=8)
    assert drawn.completions() == sample(policy(), PROMPTS, max_new_tokens=6, seed=4, samples_per_prompt=8).completions()
    assert any(EOS in completion for completion in drawn.completions())


def test_preference_optimisation_of_an_adapter_learns() -> None:
    """DPO against the adapter's own base raises the chosen sides over the rejected ones."""
    made = adapted()
    config = DPOConfig(lr=3e-2, beta=0.5, epochs=4, batch=12, warmup=1)
    before = weights_digest(without_adapter(made).model)
    result = fit_dpo(made, without_adapter(made), letter_pairs(48), config, seed=5)
    assert result["accuracy"] > 0.9
    assert weights_digest(without_adapter(made).model) == before


@pytest.mark.parametrize("loop", ["supervised", "rloo", "dpo"])
def test_trained_weights_are_in_no_checkpoint(loop: str) -> None:
    """Every loop takes the checkpoint's digest off what it trains, and leaves that of an adapter's base."""
    base = policy()
    base.digest = "b" * 64
    made = add_adapter(base, AdapterConfig(), seed=2)
    made.digest = "a" * 64
    if loop == "supervised":
        train_base(made, copying(8), SupervisedConfig(steps=1, batch=8, lr=1e-3), seed=1)
    elif loop == "rloo":
        optimised(made, RLOOConfig(steps=1, lr=1e-3, beta=0.0, max_new_tokens=4))
    else:
        fit_dpo(made, base, letter_pairs(4), DPOConfig(lr=1e-3, beta=0.5, batch=4), seed=1)
    assert (made.digest, base.digest) == (None, "b" * 64)
