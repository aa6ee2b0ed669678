"""Label counts agree with exact sums and with the simulations of the design they were planned by."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.maths.label_budget import SequentialTest, binomial_labels, labels_for_width, noise_factor, winners_bias


@pytest.mark.parametrize(
    ("p0", "p1", "labels"), [(0.5, 0.6, 213), (0.5, 0.55, 866), (0.65, 0.75, 180), (0.7, 0.8, 164), (0.8, 0.9, 112)]
)
def test_exact_binomial_sizes(p0: float, p1: float, labels: int) -> None:
    """Tabulated sizes at alpha .05 and power .9, computed elsewhere."""
    assert binomial_labels(p0, p1) == labels


@pytest.mark.parametrize(("p0", "p1", "good", "bad"), [(0.5, 0.6, 123, 103), (0.7, 0.8, 96, 76), (0.8, 0.9, 69, 51)])
def test_walds_test_needs_the_labels_and_makes_the_errors_it_promises(p0: float, p1: float, good: int, bad: int) -> None:
    """2,000 runs a side: means within 4 errors of figures simulated elsewhere (+-1 for their own), errors in bounds."""
    test, rng = SequentialTest(p0, p1), np.random.default_rng(0)
    for rate, wrong, bound, expected, planned in (
        (p1, "p0", test.beta, good, test.mean_labels()[0]),
        (p0, "p1", test.alpha, bad, test.mean_labels()[1]),
    ):
        decided = [test.decide(row) for row in (rng.random((2000, 1500)) < rate).astype(float)]
        assert None not in decided
        used = np.array([d[0] for d in decided])
        assert abs(used.mean() - expected) < 4 * used.std() / np.sqrt(2000) + 1
        assert planned < used.mean() < 1.15 * planned
        assert np.mean([d[1] == wrong for d in decided]) < bound + 4 * np.sqrt(bound * (1 - bound) / 2000)


def test_walds_test_waits_and_refuses_bad_settings() -> None:
    assert SequentialTest(0.5, 0.6).decide([1, 0, 1]) is None
    with pytest.raises(ValueError, match="p0 < p1"):
        SequentialTest(0.6, 0.5)
    with pytest.raises(ValueError, match="less than 1"):
        SequentialTest(0.5, 0.6, alpha=0.6, beta=0.5)


def test_widths_and_noise() -> None:
    assert (labels_for_width(0.05), labels_for_width(0.03)) == (385, 1068)
    assert [round(noise_factor(q), 2) for q in (0.9, 0.75, 0.7)] == [1.56, 4.0, 6.25]
    with pytest.raises(ValueError, match="no information"):
        noise_factor(0.5)


@pytest.mark.parametrize(("labels", "bias"), [(100, 0.076), (500, 0.034)])
def test_the_best_of_ten_looks_better_than_it_is(labels: int, bias: float) -> None:
    assert winners_bias(0.5, labels, 10) == pytest.approx(bias, abs=0.0015)
    assert winners_bias(0.5, labels, 1) == pytest.approx(0, abs=1e-12)
    drawn = np.random.default_rng(0).binomial(labels, 0.6, (20_000, 4)).max(1) / labels
    assert winners_bias(0.6, labels, 4) == pytest.approx(drawn.mean() - 0.6, abs=4 * drawn.std() / np.sqrt(20_000))
