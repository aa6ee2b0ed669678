"""Shares of a gap add up, and agree with cases that can be worked out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlback.maths.attribution import interactions, shapley, telescoping

CELLS = list(itertools.product((False, True), repeat=3))


def test_telescoping_adds_up() -> None:
    found = telescoping(gold=2.0, human=1.5, learned=1.75, actual=0.25)
    assert (found.labeller, found.reward_model, found.optimiser) == (0.5, -0.25, 1.5)
    assert found.gap == 1.75


def test_errors_that_do_not_interact_get_their_own_damage() -> None:
    found = shapley({(a, b, c): 5 - 1 * a - 2 * b + 0.5 * c for a, b, c in CELLS})
    np.testing.assert_allclose([found.labeller, found.reward_model, found.optimiser], [1, 2, -0.5])


def test_an_error_of_two_together_is_shared_by_halves() -> None:
    values = {(a, b, c): -3.0 * (a and b) for a, b, c in CELLS}
    found = shapley(values)
    np.testing.assert_allclose([found.labeller, found.reward_model, found.optimiser], [1.5, 1.5, 0], atol=1e-12)
    assert interactions(values)[(0, 1)] == 3
    assert interactions(values)[(0, 1, 2)] == 0


def test_shares_add_up_to_the_gap_and_to_the_dividends() -> None:
    rng = np.random.default_rng(1)
    values = {cell: float(rng.standard_normal()) for cell in CELLS}
    found, dividends = shapley(values), interactions(values)
    gap = values[(False, False, False)] - values[(True, True, True)]
    assert math.isclose(found.gap, gap)
    assert math.isclose(sum(dividends.values()), gap)
    for error, share in enumerate((found.labeller, found.reward_model, found.optimiser)):
        assert math.isclose(share, sum(d / len(s) for s, d in dividends.items() if error in s), abs_tol=1e-12)


def test_a_missing_cell_is_named() -> None:
    with pytest.raises(KeyError, match="True, True, True"):
        shapley(dict.fromkeys(CELLS[:-1], 0.0))
