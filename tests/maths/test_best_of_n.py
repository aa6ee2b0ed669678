"""Best-of-n: the unbiased estimator and the KL bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rlback.maths.best_of_n import expected_gold, kl_bound, rank_weights


def test_worked_weights() -> None:
    """Of the pairs among 3 samples the second is best once and the third twice."""
    assert rank_weights(3, 2).tolist() == pytest.approx([0, 1 / 3, 2 / 3])


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_it_is_the_mean_over_all_subsets(n: int) -> None:
    """Every subset of n of 6 samples, the best by proxy taken (by lot where two are best), averages to it."""
    proxy, gold = [2.0, 5.0, 1.0, 5.0, 3.0, 5.0], [1.0, -4.0, 0.5, 7.0, 2.0, 0.0]
    means = []
    for subset in itertools.combinations(range(6), n):
        top = max(proxy[i] for i in subset)
        best = [gold[i] for i in subset if proxy[i] == top]
        means.append(sum(best) / len(best))
    found = expected_gold(torch.tensor(proxy), torch.tensor(gold), n).item()
    assert found == pytest.approx(sum(means) / len(means), abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 100, 2500, 10_000])
def test_ten_thousand_samples(n: int) -> None:
    """Among the ranks 1..N the best of n averages n (N + 1) / (n + 1)."""
    ranks = torch.arange(1, 10_001).float()
    assert rank_weights(10_000, n).sum().item() == pytest.approx(1, abs=1e-9)
    assert expected_gold(ranks, ranks, n).item() == pytest.approx(n * 10_001 / (n + 1), rel=1e-9)


def test_prompts_are_estimated_one_by_one() -> None:
    """Two prompts, n = 3 of 3: the gold of the proxy's favourite, and of equal favourites the mean."""
    proxy = torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 0.0]])
    gold = torch.tensor([[10.0, 20.0, 30.0], [1.0, 2.0, 9.0]])
    assert expected_gold(proxy, gold, 3).tolist() == pytest.approx([20.0, 1.5])


@pytest.mark.parametrize("n", [0, 4])
def test_n_must_fit_the_samples(n: int) -> None:
    """The best of none, or of more than were scored, is refused."""
    with pytest.raises(ValueError, match="1 <= n <= 3"):
        expected_gold(torch.zeros(3), torch.zeros(3), n)


def test_worked_bound() -> None:
    """log 1 - 0 = 0 and log 2 - 1/2 = 0.193147; less than one completion is refused."""
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(0.193147, abs=1e-6)
    with pytest.raises(ValueError, match="n >= 1"):
        kl_bound(0)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_it_bounds_the_kl_and_is_reached_by_a_fine_policy(n: int) -> None:
    """With m equally likely outcomes the exact KL stays below the bound and below log m, and meets the bound for large m."""
    for outcomes in (2, 4, 100_000):
        below = torch.arange(outcomes + 1, dtype=torch.float64) / outcomes
        best = (below**n).diff()  # the best of n is outcome i if all are at most i and not all below
        exact = float(torch.special.xlogy(best, best * outcomes).sum())
        assert exact <= kl_bound(n)
        assert exact <= math.log(outcomes)
    assert exact == pytest.approx(kl_bound(n), abs=1e-3)
