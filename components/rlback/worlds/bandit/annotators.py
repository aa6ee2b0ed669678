"""Annotators of the bandit: noiseless, Bradley-Terry, with flips, and biased by known amounts.

Random noise (temperature, flips) leaves the sign of the preference alone, so that unlimited labels undo it;
bias does not average out (science, section 2.4, caution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlback.errors import ConfigError
from rlback.worlds.bandit.policies import Array
from rlback.worlds.bandit.problem import Bandit


class Draws(Protocol):
    """What labels are drawn with: a numpy Generator, or one Generator for each seed (studies/draws.py)."""

    def random(self, size: Any, /) -> Array: ...

    def integers(self, high: int, /, *, size: Any) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class BanditAnnotator:
    """Prefers a to b with probability flip + (1 - 2 flip) sigmoid((h(a) - h(b)) / temperature).

    h is gold plus length_bias * length + confidence_bias * confidence + fooled * (1 on planted items), the
    reward this annotator would express with unlimited labels. temperature 0: the better one by h, a coin at
    equality. flip: share of labels turned round at random. ConfigError for a negative or infinite temperature,
    a flip outside [0, 1/2] or a bias that is not finite.
    """

    temperature: float = 1.0
    flip: float = 0.0
    length_bias: float = 0.0
    confidence_bias: float = 0.0
    fooled: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature must be 0 or more, not {self.temperature}", remedy="set 0 (noiseless) or 1 (Bradley-Terry)"
            )
        if not 0 <= self.flip <= 0.5:
            raise ConfigError(f"flip must lie between 0 and 0.5, not {self.flip}", remedy="set a share such as 0.1")
        if not all(math.isfinite(b) for b in (self.length_bias, self.confidence_bias, self.fooled)):
            raise ConfigError("an annotator's biases must be finite", remedy="set them to 0 (unbiased) or to a number")

    def reward(self, bandit: Bandit) -> Array:
        """The human reward h, (s, x, a)."""
        return (
            bandit.gold
            + self.length_bias * bandit.length
            + self.confidence_bias * bandit.confidence
            + self.fooled * bandit.planted
        )

    def preference(self, difference: Array) -> Array:
        """Probability of preferring a, from h(a) - h(b); same shape."""
        if self.temperature == 0:
            clean = np.where(difference == 0, 0.5, difference > 0)
        else:
            clean = 0.5 * (1 + np.tanh(difference / (2 * self.temperature)))
        return self.flip + (1 - 2 * self.flip) * clean


@dataclass(frozen=True)
class Pairs:
    """Labelled comparisons, n for each seed: context, a and b are indices (s, n); a_wins (s, n) is 0 or 1."""

    context: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    a_wins: Array

    def joined(self, other: Pairs) -> Pairs:
        """These pairs and the others, seed by seed."""
        fields = ("context", "a", "b", "a_wins")
        return Pairs(*(np.concatenate([getattr(self, f), getattr(other, f)], 1) for f in fields))


def label(bandit: Bandit, annotator: BanditAnnotator, side_a: Array, side_b: Array, n: int, rng: Draws) -> Pairs:
    """n comparisons a seed: a context at random, one action from each policy (s, x, a), and the verdict."""
    seeds, contexts, _ = bandit.gold.shape
    context = rng.integers(contexts, size=(seeds, n))
    a, b = _draw(side_a, context, rng), _draw(side_b, context, rng)
    human = annotator.reward(bandit)
    chance = annotator.preference(at(human, context, a) - at(human, context, b))
    return Pairs(context, a, b, (rng.random((seeds, n)) < chance).astype(float))


def win_probability(bandit: Bandit, annotator: BanditAnnotator, side_a: Array, side_b: Array) -> Array:
    """Exact probability (s,) that the annotator prefers a draw of `side_a` to one of `side_b` in a context."""
    human = annotator.reward(bandit)
    chance = annotator.preference(human[..., :, None] - human[..., None, :])
    joint = np.exp(side_a)[..., :, None] * np.exp(side_b)[..., None, :]
    return (joint * chance).sum((-1, -2)).mean(-1)


def at(table: Array, context: NDArray[np.int64], action: NDArray[np.int64]) -> Array:
    """Entries of a table (s, x, a, ...) at indices (s, n) each: (s, n, ...)."""
    return table[np.arange(len(table))[:, None], context, action]


def _draw(log_policy: Array, context: NDArray[np.int64], rng: Draws) -> NDArray[np.int64]:
    cumulative = np.exp(log_policy).cumsum(-1)[np.arange(len(log_policy))[:, None], context]
    drawn = (rng.random((*context.shape, 1)) * cumulative[..., -1:] > cumulative).sum(-1)
    return np.minimum(drawn, log_policy.shape[-1] - 1)
