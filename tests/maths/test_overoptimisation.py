"""Forms recover their own parameters, peaks are peaks, and the right form is preferred."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlback.maths.overoptimisation import FORMS, Curve, extrapolation_error, fit

DISTANCE = np.linspace(0.2, 6, 40)


def golds(form: str) -> np.ndarray:
    first, second = {"best_of_n": (1.0, 0.12), "rl": (1.0, 0.7), "saturating": (1.5, 2.0)}[form]
    return Curve(form, first, second, 0.0, 0, 0.0).gold(DISTANCE)  # type: ignore[arg-type]


def test_the_forms_are_those_of_the_paper() -> None:
    d = 3.0
    expected = {"best_of_n": d * (1 - 0.12 * d), "rl": d * (1 - 0.7 * math.log(d)), "saturating": 1.5 * (1 - math.exp(-1.5))}
    for form, gold in expected.items():
        assert math.isclose(float(np.interp(d, DISTANCE, golds(form))), gold, rel_tol=2e-3)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_recovers_its_parameters(form: str) -> None:
    curve = fit(DISTANCE, golds(form), form)  # type: ignore[arg-type]
    np.testing.assert_allclose(curve.gold(DISTANCE), golds(form), atol=1e-4)
    assert extrapolation_error(DISTANCE, golds(form), form) < 1e-3  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_the_peak_is_the_highest_point(form: str) -> None:
    peak = fit(DISTANCE, golds(form), form).peak  # type: ignore[arg-type]
    assert peak is not None
    fine = np.linspace(0.2, 6, 20_001)
    curve = fit(DISTANCE, golds(form), form).gold(fine)  # type: ignore[arg-type]
    assert abs(fine[curve.argmax()] - peak[0]) < 1e-3
    assert math.isclose(curve.max(), peak[1], rel_tol=1e-6)


@pytest.mark.parametrize("true", FORMS)
def test_the_form_behind_noisy_points_has_the_lowest_criterion(true: str) -> None:
    noisy = golds(true) + 0.02 * np.random.default_rng(0).standard_normal(40)
    assert min(FORMS, key=lambda form: fit(DISTANCE, noisy, form).aicc) == true
    assert min(FORMS, key=lambda form: extrapolation_error(DISTANCE, noisy, form)) == true


def test_no_peak_within_the_data() -> None:
    short = DISTANCE < 1.0
    for form in ("best_of_n", "rl"):
        assert fit(DISTANCE[short], golds(form)[short], form).peak is None  # type: ignore[arg-type]
    assert fit(DISTANCE, golds("saturating"), "saturating").peak is None


def test_points_without_weight_or_too_near_do_not_count() -> None:
    spoilt = golds("rl").copy()
    spoilt[:5] = 9.0
    assert math.isclose(fit(DISTANCE, spoilt, "rl", least=float(DISTANCE[4])).second, 0.7)
    assert math.isclose(fit(DISTANCE, spoilt, "rl", weights=np.arange(40) >= 5).second, 0.7)


def test_too_few_points() -> None:
    with pytest.raises(ValueError, match="two or more distinct"):
        fit([1.0, 1.0], [0.5, 0.5], "rl")
    assert fit([1, 2, 3, 4], [1, 2, 3, 4], "rl").aicc == math.inf
