"""Advantages: the learning signal of a completion among those sampled for the same prompt."""

from __future__ import annotations

from torch import Tensor


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the other completions of its prompt (RLOO, Ahmadian et al. 2402.14740).

    `rewards` is (prompts, k) with k >= 2; so is the result. Each row sums to 0. ValueError for k < 2, where
    there is no other completion to compare with.
    """
    k = rewards.shape[-1]
    if k < 2:
        raise ValueError(f"leave_one_out needs at least 2 completions a prompt, got {k}")
    others = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    return rewards - others


def standardise(advantages: Tensor, *, floor: float = 1e-6) -> Tensor:
    """Advantages divided by their standard deviation (population form) over the whole batch.

    The mean is left alone: leave-one-out advantages have mean 0 already, and a shift would reward or punish
    every completion of the batch alike. A batch whose deviation is below `floor` carries no signal and is
    returned as it is, since scaling it up would train on rounding noise.
    """
    deviation = advantages.std(unbiased=False)
    return advantages if float(deviation) < floor else advantages / deviation
