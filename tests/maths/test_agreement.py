"""Agreement against examples that were worked by hand and published, and where it is not defined."""

from __future__ import annotations

import random

import pytest

from rlback.maths.agreement import alpha, kappa, kappa_of, percent_agreement, with_interval

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
UNITS = [[int(v) for v in unit if v != "."] for unit in zip(*(row.split() for row in OBSERVERS), strict=True)]
# The same paper, section A: two observers, binary, ten units.
BINARY = list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True))


def test_alpha_of_the_published_examples():
    """0.743 nominal and 0.815 ordinal for four observers, 0.095 for the binary data of two."""
    assert alpha(UNITS, "nominal").value == pytest.approx(0.743, abs=5e-4)
    assert alpha(UNITS, "ordinal", [1, 2, 3, 4, 5]).value == pytest.approx(0.815, abs=5e-4)
    assert alpha(BINARY, "nominal").value == pytest.approx(0.095, abs=5e-4)
    assert alpha(UNITS, "nominal").n == 40
    assert alpha(UNITS, "nominal").units == 11


def test_alpha_worked_by_hand():
    """Units aa, ab: n=4, n_a=3, n_b=1; D_o = 2/4, D_e = 6/12; so alpha is 1 - 1 = 0."""
    assert alpha([["a", "a"], ["a", "b"]], "nominal").value == pytest.approx(0.0)


def test_perfect_agreement_is_one_and_systematic_contradiction_is_below_zero():
    """aa, bb: 1. ab, ba: 1 - 3 * 4 / 8 = -0.5."""
    assert alpha([["a", "a"], ["b", "b"]], "nominal").value == 1.0
    assert alpha([["a", "b"], ["b", "a"]], "nominal").value == pytest.approx(-0.5)


def test_an_ordinal_scale_minds_how_far_apart_two_are():
    """Neighbours apart agree better than the ends of the scale do, with the same counts of every value."""
    near = [[-2, -1], [-2, -1], [2, 1], [2, 1]]
    far = [[-2, 1], [-2, 1], [2, -1], [2, -1]]
    scale = [-2, -1, 0, 1, 2]
    assert alpha(near, "ordinal", scale).value > alpha(far, "ordinal", scale).value
    assert alpha(near, "nominal").value == alpha(far, "nominal").value


@pytest.mark.parametrize("units", [[], [["a"], ["b"]], [["a", "a"], ["a", "a"]], [[]]])
def test_where_alpha_is_not_defined_there_is_a_reason(units):
    """No unit with two ratings, or one answer throughout: None, and no exception."""
    found = alpha(units, "nominal")
    assert found.value is None
    assert found.reason


def test_a_rating_off_the_scale_is_an_error():
    """A value that the order does not name is a mistake of the caller's."""
    with pytest.raises(ValueError, match="not on the scale"):
        alpha([[1, 9]], "ordinal", [1, 2])


def test_percent_agreement_counts_pairs():
    """aab has one of three pairs in agreement, bb its only one: (2 + 2) / (6 + 2)."""
    assert percent_agreement([["a", "a", "b"], ["b", "b"], ["c"]]).value == pytest.approx(0.5)
    assert percent_agreement([["a"]]).value is None


def test_kappa_of_a_two_by_two_table():
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o 0.7, p_e 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4."""
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert kappa(first, second).value == pytest.approx(0.4)
    assert kappa(second, first).value == pytest.approx(0.4)


def test_kappa_is_not_defined_without_units_or_with_one_answer():
    """None with a reason; sequences of unlike length are an error."""
    assert kappa([], []).reason
    assert kappa(["a", "a"], ["a", "a"]).value is None
    with pytest.raises(ValueError, match="2 ratings beside 1"):
        kappa(["a", "b"], ["a"])


def test_an_interval_holds_the_value_and_narrows_with_more_units():
    """Ten times the units: the value is about the same, the interval less than half as wide."""
    rng = random.Random(3)

    def units(n):
        return [[x, x if rng.random() < 0.8 else rng.choice("ab")] for x in (rng.choice("ab") for _ in range(n))]

    few, many = (with_interval(units(n), lambda u, w: alpha(u, "nominal", weights=w), 1) for n in (40, 400))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_an_interval_is_the_same_for_the_same_seed_and_absent_for_one_unit():
    """Reproducible; one unit cannot be drawn anew in any other way."""
    assert with_interval(UNITS, percent_agreement, 5, 50) == with_interval(UNITS, percent_agreement, 5, 50)
    assert with_interval([["a", "b"]], percent_agreement, 5).low is None


def test_weights_say_how_often_a_unit_is_there():
    """Three times a unit is the unit three times, for each statistic; and none is none."""
    weights = [(i * 7) % 4 for i in range(len(UNITS))]
    expanded = [unit for unit, times in zip(UNITS, weights, strict=True) for _ in range(times)]
    order = [1, 2, 3, 4, 5]
    assert alpha(UNITS, "ordinal", order, weights) == alpha(expanded, "ordinal", order)
    assert percent_agreement(UNITS, weights) == percent_agreement(expanded)
    assert kappa_of(BINARY, [2] * 10) == kappa_of([*BINARY, *BINARY])
    assert alpha(UNITS, "nominal", weights=[0] * len(UNITS)).value is None
