"""KL estimators from samples."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlback.maths import kl


def test_worked_token() -> None:
    """p = 0.5, q = 0.25: k1 = ln 2 = 0.6931 and k3 = q/p - 1 + ln 2 = 0.5 - 1 + 0.6931 = 0.1931."""
    logp, logq = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert abs(kl.k1(logp, logq).item() - 0.693147) < 1e-6
    assert abs(kl.k3(logp, logq).item() - 0.193147) < 1e-6


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    """k3 >= 0 for every pair of log-probabilities, and 0 where they are equal."""
    p, q = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    assert (kl.k3(p, q) >= 0).all()
    assert (kl.k3(p, p) == 0).all()


def test_both_estimators_are_unbiased() -> None:
    """Weighted by p over all outcomes, k1 and k3 both give KL(p || q) = 0.8 ln 1.6 + 0.2 ln 0.4 = 0.1927."""
    p, q = torch.tensor([0.8, 0.2]).double(), torch.tensor([0.5, 0.5]).double()
    for estimator in (kl.k1, kl.k3):
        assert abs(float((p * estimator(p.log(), q.log())).sum()) - 0.192745) < 1e-6


def test_k1_is_not_clamped() -> None:
    """A token the reference likes better counts negative: ln 0.2 - ln 0.5 = -0.9163."""
    value = kl.k1(torch.tensor([math.log(0.2)]), torch.tensor([math.log(0.5)])).item()
    assert abs(value + 0.916291) < 1e-6


def test_per_completion_sums_tokens_not_padding() -> None:
    """Tokens 0.5, 0.25 and a padded 9 sum to 0.75 nats."""
    tokens = torch.tensor([[0.5, 0.25, 9.0]])
    assert kl.per_completion(tokens, torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [0.75]
