"""Which part of a shortfall in gold is the labeller's, the reward model's or the optimiser's (science, section 2.4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

#: A cell of the factorial: (human labels instead of gold, learned reward instead of exact, real optimiser).
Cell = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Attribution:
    """Shares of a gap, in units of gold; signed, and adding up to the gap."""

    labeller: float
    reward_model: float
    optimiser: float

    @property
    def gap(self) -> float:
        """The sum of the shares."""
        return self.labeller + self.reward_model + self.optimiser


def telescoping(*, gold: float, human: float, learned: float, actual: float) -> Attribution:
    """Exact signed split of J(pi*) - J(actual), from the gold value J of four policies of one class and budget.

    gold, human, learned: J of the policies that maximise gold, the human reward and the learned reward;
    actual: J of what the optimiser produced. One of the 3! orders in which errors can be introduced.
    """
    return Attribution(gold - human, human - learned, learned - actual)


def shapley(values: Mapping[Cell, float]) -> Attribution:
    """Mean of each error's damage over all orders of introducing the three (Shapley 1953).

    `values` has the gold value J of all eight cells; (False, False, False) is the optimum, (True, True, True) the
    real run. KeyError names a missing cell.
    """
    shares = [0.0, 0.0, 0.0]
    orders = list(itertools.permutations(range(3)))
    for order in orders:
        cell = [False, False, False]
        for error in order:
            before = values[_cell(cell)]
            cell[error] = True
            shares[error] += (before - values[_cell(cell)]) / len(orders)
    return Attribution(*shares)


def interactions(values: Mapping[Cell, float]) -> dict[tuple[int, ...], float]:
    """Harsanyi dividends of the damage: what each set of errors does beyond what its subsets do.

    Keys are tuples of 0 (labeller), 1 (reward model), 2 (optimiser); the seven dividends add up to the gap, and
    an error's Shapley share is the sum of its dividends, each divided by its set's size.
    """
    best = values[(False, False, False)]
    sets = [s for size in (1, 2, 3) for s in itertools.combinations(range(3), size)]
    damage = {s: best - values[_cell([i in s for i in range(3)])] for s in sets}
    return {s: math.fsum((-1) ** (len(s) - len(t)) * damage[t] for t in sets if set(t) <= set(s)) for s in sets}


def _cell(flags: list[bool]) -> Cell:
    return flags[0], flags[1], flags[2]
