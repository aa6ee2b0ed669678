"""KL estimators from samples, and the adaptive coefficient."""

from __future__ import annotations

import math

import pytest
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


def test_k2_is_half_the_square() -> None:
    """p = 0.5, q = 0.25: (ln 2)^2 / 2 = 0.240227."""
    value = kl.k2(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])).item()
    assert abs(value - 0.240227) < 1e-6


def test_only_k2_has_the_gradient_of_the_kl() -> None:
    """Differentiated over all outcomes: k1 gives 0, k2 the gradient of KL(p, q), k3 that of KL(q, p)."""
    logits = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64, requires_grad=True)
    logp, logq = logits.log_softmax(0), torch.tensor([0.2, 0.5, 0.3]).double().log()
    forward = (logp.exp() * (logp - logq)).sum()
    reverse = (logq.exp() * (logq - logp)).sum()
    (right,) = torch.autograd.grad(forward, logits, retain_graph=True)
    (other,) = torch.autograd.grad(reverse, logits, retain_graph=True)
    assert (right - other).abs().max() > 0.05  # else the distinction would not be seen
    for estimator, gradient in ((kl.k1, torch.zeros(3).double()), (kl.k2, right), (kl.k3, other)):
        expected = (logp.exp().detach() * estimator(logp, logq)).sum()
        (found,) = torch.autograd.grad(expected, logits, retain_graph=True)
        assert torch.allclose(found, gradient, atol=1e-12)


@pytest.mark.parametrize(
    ("observed", "after"), [(10, 0.1), (11, 0.101), (9, 0.099), (12, 0.102), (500, 0.102), (0, 0.098), (-3, 0.098)]
)
def test_worked_coefficient(observed: float, after: float) -> None:
    """Target 10 nats, a tenth of the horizon: 10 % too much adds 1 %; from 20 % on the change stays at 2 %."""
    assert kl.adapt(0.1, observed, 10.0, horizon=100, batch=10) == pytest.approx(after)


def test_coefficient_over_a_horizon() -> None:
    """Ten batches of a tenth of the horizon, all far above the target, multiply by 1.02^10 = 1.218994."""
    beta = 1.0
    for _ in range(10):
        beta = kl.adapt(beta, 99.0, 10.0, horizon=100, batch=10)
    assert beta == pytest.approx(1.218994, abs=1e-6)


@pytest.mark.parametrize(("target", "horizon", "batch"), [(0, 100, 10), (10, 0, 10), (10, 2, 10)])
def test_settings_that_could_turn_the_coefficient_negative(target: float, horizon: float, batch: int) -> None:
    """No target, no horizon, or a batch of five horizons is refused."""
    with pytest.raises(ValueError, match="adapt needs"):
        kl.adapt(0.1, 5.0, target, horizon, batch)
