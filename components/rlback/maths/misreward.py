"""Misreward exposure of a gradient step: how much of what it reinforced was wrong by the gold reward.

Advantages of the reward being optimised are compared with gold advantages formed by the same baseline rule
from gold scores standardised on the base policy. Every share is kept as numerator and denominator, so that
the steps of a lineage, a round or a whole campaign add up to the share of the sum, not a mean of shares.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Exposure:
    """Numerators and denominators of two shares; add them over steps with `+`, or scale by a learning rate.

    sign: weight of the samples whose advantage has the wrong sign, over all weight (MX_sign).
    false: weight of the samples pushed up although clearly worse than their baseline, over all upward
    weight (MX_false). integrated: sum over steps of learning rate times sign numerator.
    """

    sign_wrong: float = 0.0
    sign_all: float = 0.0
    false_wrong: float = 0.0
    false_all: float = 0.0
    integrated: float = 0.0

    def __add__(self, other: Exposure) -> Exposure:
        return Exposure(
            self.sign_wrong + other.sign_wrong,
            self.sign_all + other.sign_all,
            self.false_wrong + other.false_wrong,
            self.false_all + other.false_all,
            self.integrated + other.integrated,
        )

    @property
    def sign(self) -> float:
        """MX_sign, a share in [0, 1]; 0 where nothing was weighted."""
        return self.sign_wrong / self.sign_all if self.sign_all else 0.0

    @property
    def false(self) -> float:
        """MX_false, a share in [0, 1]; 0 where nothing was pushed up."""
        return self.false_wrong / self.false_all if self.false_all else 0.0


def exposure(
    advantages: Tensor,
    gold_advantages: Tensor,
    weights: Tensor,
    *,
    epsilon: float = 0.5,
    learning_rate: float = 0.0,
) -> Exposure:
    """Exposure of one gradient step over its samples, all three tensors (n,).

    `weights` are the effective weights: |advantage|, or 0 where the update ignored the sample (clipped).
    `epsilon` is in standard deviations of gold under the base policy: below -epsilon a sample is clearly
    wrong. A gold advantage of exactly 0 is neither right nor wrong.
    """
    wrong_sign = (advantages * gold_advantages < 0).to(weights)
    upward = (advantages > 0).to(weights)
    clearly_wrong = (gold_advantages < -epsilon).to(weights)
    sign_wrong = float((weights * wrong_sign).sum())
    return Exposure(
        sign_wrong,
        float(weights.sum()),
        float((weights * upward * clearly_wrong).sum()),
        float((weights * upward).sum()),
        learning_rate * sign_wrong,
    )
