"""Label-free signals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.maths.early_signals import hill, order_agreement, reward_variance, spread_ratio, squared_mmd


@pytest.mark.parametrize("index", [1.0, 3.0])
def test_hill_finds_a_pareto_tail_with_an_honest_error(index: float) -> None:
    """Over 300 samples of a Pareto law, for which the estimate has mean index k/(k-1) and its stated error."""
    rng = np.random.default_rng(0)
    found = [hill(rng.pareto(index, 1000) + 1, 100) for _ in range(300)]
    values = np.array([f.value for f in found])
    assert values.mean() == pytest.approx(index * 100 / 99, abs=4 * values.std() / np.sqrt(300))
    assert np.mean([f.error for f in found]) == pytest.approx(values.std(), rel=0.25)


def test_a_light_tail_has_a_large_index_that_grows() -> None:
    x = np.abs(np.random.default_rng(1).standard_normal(20_000))
    assert hill(x, 50).value > hill(x, 2000).value > 3


def test_hill_refuses_what_has_no_tail() -> None:
    with pytest.raises(ValueError, match="above 0"):
        hill(-np.arange(1.0, 50.0))
    with pytest.raises(ValueError, match="equal"):
        hill(np.ones(50))
    with pytest.raises(ValueError, match="leaves one"):
        hill([1.0, 2.0], 2)


def test_order_agreement_counts_pairs() -> None:
    """Of gold 0 < 1 < 2 the proxy (0, 2, 1) orders two of three pairs; equal golds are left out."""
    assert order_agreement([0, 2, 1], [0, 1, 2]) == pytest.approx(2 / 3)
    assert order_agreement([5, 5, 5], [0, 1, 2]) == pytest.approx(0.5)
    assert order_agreement([[0, 1, 2], [2, 1, 0]], [[0, 1, 2], [0, 1, 2]]).tolist() == [1, 0]
    assert order_agreement([0, 1, 2], [0, 1, 1]) == 1
    assert np.isnan(order_agreement([0, 1], [3, 3]))


def test_weights_are_repetitions() -> None:
    proxy, gold = np.array([0.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0])
    repeated = order_agreement(np.repeat(proxy, [1, 2, 3]), np.repeat(gold, [1, 2, 3]))
    assert order_agreement(proxy, gold, [1, 2, 3]) == pytest.approx(repeated)
    exact = reward_variance(proxy, np.array([1, 2, 3]) / 6)
    assert exact == pytest.approx(np.repeat(proxy, [1, 2, 3]).var())


def test_spreads_and_variances() -> None:
    start = np.random.default_rng(0).standard_normal((4, 50))
    assert spread_ratio(start * 2 + 7, start) == pytest.approx(4)
    with pytest.raises(ValueError, match="copies"):
        spread_ratio(start, np.zeros((4, 3)))
    assert reward_variance([[0.0, 2.0], [1.0, 1.0]]) == pytest.approx(1.0)


def test_mmd_is_unbiased_and_sees_a_shift() -> None:
    rng = np.random.default_rng(2)
    same = [squared_mmd(rng.standard_normal(40), rng.standard_normal(40)) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(300)
    # E k(x, y) for normals a distance m apart, bandwidth 1: exp(-m^2 / 6) / sqrt(3).
    shifted = [squared_mmd(rng.standard_normal(40), 2 + rng.standard_normal(40)) for _ in range(300)]
    expected = 2 / np.sqrt(3) * (1 - np.exp(-4 / 6))
    assert np.mean(shifted) == pytest.approx(expected, abs=4 * np.std(shifted) / np.sqrt(300))
