"""Simulated annotators: they know the gold reward, and are noisy, careless or biased by known amounts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlback.errors import ConfigError
from rlback.records import Comparison, Completion, Verdict, seed_of
from rlback.worlds import visits_gold

#: (prompt, completion text, whether the end token was sampled) -> a number.
GoldFunction = Callable[[str, str, bool], float]

# Two golds nearer than this differ by rounding only.
_EQUAL = 1e-9


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Prefers completion a with probability lapse + (1 - 2 lapse) sigmoid((U(a) - U(b)) / temperature).

    The value U is the gold reward plus `hype_bias` times `hype`, the count of what this annotator likes too
    much (0: unbiased). `lapse` is the chance of hitting the wrong key, however clear the case. At temperature
    0 the annotator is noiseless: the better completion always, `tie` at equal value, and no lapses.

    A Bradley-Terry choice with lapses. Raises ConfigError for a negative or infinite temperature, a lapse
    outside [0, 1/2] or a bias that is not finite.
    """

    name: str
    gold: GoldFunction
    temperature: float = 0.5
    lapse: float = 0.05
    hype_bias: float = 0.0
    hype: GoldFunction = visits_gold.hype

    def __post_init__(self) -> None:
        if not (0.0 <= self.temperature < math.inf):
            raise ConfigError(
                f"annotator {self.name}: temperature must be 0 or more, not {self.temperature}",
                remedy="set temperature to 0 (noiseless) or to a positive number such as 0.5",
            )
        if not 0.0 <= self.lapse <= 0.5:
            raise ConfigError(
                f"annotator {self.name}: lapse must lie between 0 and 0.5, not {self.lapse}",
                remedy="set lapse to a small share such as 0.05",
            )
        if not math.isfinite(self.hype_bias):
            raise ConfigError(
                f"annotator {self.name}: hype_bias must be finite, not {self.hype_bias}",
                remedy="set hype_bias to 0 (unbiased) or to a number such as 0.9",
            )

    def value(self, prompt: str, completion: Completion) -> float:
        """What this annotator thinks a completion is worth, before noise."""
        worth = self.gold(prompt, completion.text, completion.finished)
        if self.hype_bias:
            worth += self.hype_bias * self.hype(prompt, completion.text, completion.finished)
        return worth

    def preference(self, comparison: Comparison) -> float:
        """The probability that completion a is preferred; 1/2 for the tie of a noiseless annotator."""
        gap = self.value(comparison.prompt, comparison.a) - self.value(comparison.prompt, comparison.b)
        if self.temperature == 0.0:
            return 0.5 if abs(gap) < _EQUAL else float(gap > 0)
        return self.lapse + (1.0 - 2.0 * self.lapse) * _sigmoid(gap / self.temperature)

    def verdict(self, comparison: Comparison, seed: int) -> Verdict:
        """The verdict on a comparison: `a` or `b`, and `tie` from a noiseless annotator at equal value.

        It depends on the annotator, the prompt, the two texts (and whether they ended) and the seed, and on
        nothing else: not on earlier verdicts, nor on which of the two is called a. Swapping them swaps the
        verdict.
        """
        chance = self.preference(comparison)
        if self.temperature == 0.0:
            return "tie" if chance == 0.5 else "a" if chance == 1.0 else "b"
        a, b = _shown(comparison.a), _shown(comparison.b)
        draw = seed_of("annotator", self.name, seed, comparison.prompt, *min(a, b), *max(a, b)) / 2**63
        # The draw belongs to the pair, so it is read from the end of whichever completion sorts first.
        prefers_a = draw < chance if a <= b else 1.0 - draw <= chance
        return "a" if prefers_a else "b"

    def lineage(self) -> dict[str, str | float]:
        """What has to be recorded to have the same annotator again."""
        return {
            "kind": "simulated",
            "name": self.name,
            "gold": _qualified(self.gold),
            "temperature": self.temperature,
            "lapse": self.lapse,
            "hype_bias": self.hype_bias,
            "hype": _qualified(self.hype),
        }


def _shown(completion: Completion) -> tuple[str, bool]:
    return completion.text, completion.finished


def _qualified(function: GoldFunction) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"


def _sigmoid(x: float) -> float:
    # exp of a large positive number overflows; of a large negative one it is 0.
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))
