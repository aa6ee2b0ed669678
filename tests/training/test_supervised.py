"""Training of the base policy."""

from __future__ import annotations

import math

import pytest
import torch

from rlback.errors import DataError, TrainingDiverged
from rlback.models.digests import weights_digest
from rlback.settings import SupervisedConfig
from rlback.training.supervised import Stream, evaluate_nll, train_base
from tests.training.tiny import EOS, PROMPTS, A, B, copying, policy


def test_it_learns_to_copy() -> None:
    """The first letter is certain, and one to four letters are equally likely: (0 + ln 4) / 3.5 nats a token.

    A completion has 2, 3, 4 or 5 tokens with its end: 3.5 on average. How often the letter comes is the only
    thing left to guess, worth ln 4 nats a completion, so the floor is 0.396 nats per token.
    """
    made, data = policy(), copying()
    before = evaluate_nll(made, data)
    metrics = train_base(made, data, SupervisedConfig(steps=120, batch=24, lr=2e-2, warmup=5), seed=1)
    assert before > 1.5
    assert math.log(4) / 3.5 - 1e-3 < evaluate_nll(made, data) < 0.45
    assert metrics["steps"] == 120
    assert metrics["tokens"] == 120 * 24 * 3.5


def test_it_learns_a_stream() -> None:
    """Text that repeats a b c is as good as certain after the first letter of a window."""
    made, stream = policy(), Stream([0, 1, 2] * 50, window=8)
    train_base(made, [stream], SupervisedConfig(steps=80, batch=8, lr=2e-2, warmup=5), seed=1)
    assert evaluate_nll(made, [stream]) < 0.05


def test_a_mixture_keeps_to_its_weights() -> None:
    """A stream of weight 0 is never drawn: its letter is not learnt."""
    drawn, ignored = Stream([A] * 40, window=8), Stream([B] * 40, window=8, weight=0.0)
    made = policy()
    train_base(made, [drawn, ignored], SupervisedConfig(steps=40, batch=8, lr=2e-2, warmup=5), seed=1)
    assert evaluate_nll(made, [drawn]) < 0.1
    assert evaluate_nll(made, [ignored]) > 2.0


def _weights(max_padded: int) -> torch.Tensor:
    made = policy()
    config = SupervisedConfig(steps=3, batch=8, lr=5e-3, warmup=1, max_padded=max_padded)
    train_base(made, copying(), config, seed=1)
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


def test_eight_parts_of_one_train_as_one_part_of_eight() -> None:
    """How a batch is cut into parts does not change what is learnt, but for rounding."""
    assert torch.allclose(_weights(max_padded=1), _weights(max_padded=10_000), atol=1e-5)


def test_nll_is_that_of_the_completion_tokens() -> None:
    """Over 2 completions of 1 and 3 tokens the mean is over 4 tokens, whichever way they are batched."""
    made = policy()
    data = [(PROMPTS[0], [EOS]), (PROMPTS[1], [A, B, EOS])]
    parts = [evaluate_nll(made, [example]) for example in data]
    expected = (1 * parts[0] + 3 * parts[1]) / 4
    assert abs(evaluate_nll(made, data) - expected) < 1e-5
    assert abs(evaluate_nll(made, data, max_padded=1) - expected) < 1e-5


def test_bf16_learns_and_keeps_fp32_weights() -> None:
    """Under bf16 autocast the loss still falls and the master weights stay fp32."""
    made, data = policy(), copying()
    config = SupervisedConfig(steps=60, batch=24, lr=2e-2, warmup=5, precision="bf16")
    train_base(made, data, config, seed=1)
    assert evaluate_nll(made, data) < 0.6
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    """Weights that hold NaN: the error names stage and step, and no step is taken."""
    made = policy()
    with torch.no_grad():
        next(made.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingDiverged, match="base training: the loss at step 0 is nan"):
        train_base(made, copying(), SupervisedConfig(steps=2, batch=4, lr=5e-3), seed=1)


def test_no_steps_leave_the_policy_alone() -> None:
    """Zero steps are allowed: a base policy that is used as it was made."""
    made = policy()
    before = weights_digest(made.model)
    metrics = train_base(made, copying(), SupervisedConfig(steps=0, batch=4, lr=5e-3), seed=1)
    assert weights_digest(made.model) == before
    assert metrics["tokens"] == 0


def test_data_that_cannot_be_trained_on_is_refused() -> None:
    """Nothing at all, an empty completion and a text shorter than its window are DataErrors."""
    for data in ([], [(PROMPTS[0], [])]):
        with pytest.raises(DataError):
            train_base(policy(), data, SupervisedConfig(steps=1, batch=4, lr=5e-3), seed=1)
    with pytest.raises(DataError, match="windows of 8"):
        Stream([A] * 7, window=8)
