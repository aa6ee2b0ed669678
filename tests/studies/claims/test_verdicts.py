"""A verdict says what its bounds say, and a claim what its parts say."""

from __future__ import annotations

import numpy as np
import pytest

from rlback.studies.claims.verdicts import Finding, Part, above, falling, ordered, peak_against_end, resample


def part(low: float, high: float, least: float = 0.0) -> Part:
    return Part("x", (low + high) / 2, low, high, 9, least)


@pytest.mark.parametrize(
    ("low", "high", "least", "verdict"),
    [(0.1, 0.2, 0, "holds"), (-0.2, -0.1, 0, "fails"), (-0.1, 0.1, 0, "inconclusive"), (-0.05, 0.1, -0.1, "holds"),
     (0.1, 0.2, 0.3, "fails"), (np.nan, 1, 0, "inconclusive")],
)  # fmt: skip
def test_a_part_is_judged_by_its_bounds(low: float, high: float, least: float, verdict: str) -> None:
    assert part(low, high, least).verdict == verdict


def test_a_claim_needs_all_of_its_parts() -> None:
    good, bad, open_ = part(1, 2), part(-2, -1), part(-1, 1)
    assert Finding((good, good), "").verdict == "holds"
    assert Finding((good, open_), "").verdict == "inconclusive"
    assert Finding((good, open_, bad), "").verdict == "fails"
    assert Finding((), "").verdict == "not measured"
    assert Finding((good, open_, bad), "").deciding is bad
    assert Finding((part(5, 6), good), "").deciding is good


def test_paired_differences_have_their_level() -> None:
    """Without a difference the claim is confirmed in about 5 % of studies of 30 seeds: 22 of 200 lie four errors off."""
    rng, confirmed = np.random.default_rng(0), 0
    for _ in range(200):
        shared = 5 * rng.standard_normal(30)
        confirmed += above("x", shared + rng.standard_normal(30), shared + rng.standard_normal(30)).verdict == "holds"
    assert confirmed <= 22
    shared = 5 * rng.standard_normal(30)
    assert above("x", shared + 1, shared).verdict == "holds"


def test_runs_without_a_number_are_left_out() -> None:
    found = above("x", [1, np.nan, 3, 2.5], [0, 1, np.nan, 0.5])
    assert (found.estimate, found.seeds) == (1.5, 2)
    assert above("x", [np.nan, 1], [1, np.nan]).verdict == "inconclusive"


def test_noise_is_no_peak() -> None:
    """The highest of many noisy points is not taken for a peak; a real one is found where it is."""
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((40, 30))
    assert peak_against_end("x", flat)[0].verdict == "inconclusive"
    hump = flat + 4 * np.exp(-((np.arange(30) - 10) ** 2) / 8)
    found, place = peak_against_end("x", hump)
    assert found.verdict == "holds"
    assert set(place.tolist()) <= {9, 10, 11}


def test_orders_and_falls_compare_neighbours() -> None:
    up, down = np.arange(12.0), np.arange(12.0) - 5
    assert [p.verdict for p in ordered("abc", [up, down, up])] == ["holds", "fails"]
    assert [p.verdict for p in falling("x", np.stack([up, down, down - 1], 1))] == ["holds", "holds"]


def test_a_statistic_that_is_seldom_defined_decides_nothing() -> None:
    assert resample("x", lambda rows: 1.0 if 0 in rows else np.nan, 8).verdict == "inconclusive"
    assert resample("x", lambda rows: float(rows.mean()) + 1, 8).verdict == "holds"
