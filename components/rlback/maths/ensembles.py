"""One score from the members of a reward-model ensemble (Coste et al. 2310.02743).

`scores` is (m, b): member by completion. The members must share a scale, each standardised on the same reference
samples; otherwise the minimum merely names the member with the lowest offset.
"""

from __future__ import annotations

from torch import Tensor


def mean(scores: Tensor) -> Tensor:
    """Mean over the members, (m, b) to (b,). One member that overrates a completion still pulls it up."""
    return scores.mean(0)


def worst_case(scores: Tensor) -> Tensor:
    """The lowest member's score, (m, b) to (b,): a completion is worth what its severest judge says."""
    return scores.amin(0)


def uncertainty_weighted(scores: Tensor, weight: float) -> Tensor:
    """Mean minus `weight` (lambda, at least 0) times the members' variance, (m, b) to (b,).

    The variance has m in its denominator, as in the paper. With m - 1 it would be a third larger for
    four members, so a lambda does not carry over between the two. Being a variance, it is in squared units of
    score: lambda depends on the scale.
    """
    return scores.mean(0) - weight * scores.var(0, unbiased=False)
