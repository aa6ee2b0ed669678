"""Advantages: how much better a completion, or a token of it, did than was to be expected.

Group methods (RLOO, GRPO) compare a completion with the others sampled for the same prompt; GAE compares with a
learned value. Masks are (b, t), bool or 0/1 float: 1 for a token the policy chose. Tokens the environment wrote
and padding are 0, and the ones need not be contiguous. Advantages are constants to the losses: none of these
functions is meant to be differentiated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlback.maths.masking import masked_mean


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the other completions of its prompt (RLOO, Ahmadian et al. 2402.14740).

    `rewards` is (prompts, k) with k >= 2; so is the result. Each row sums to 0. ValueError for k < 2, where
    there is no other completion to compare with.
    """
    k = _group_size(rewards, "leave_one_out")
    others = (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)
    return rewards - others


def group_normalised(rewards: Tensor, *, divide_by_std: bool, eps: float = 1e-4) -> Tensor:
    """Reward minus the mean reward of its prompt's group, itself included; (prompts, k) with k >= 2.

    `divide_by_std` divides by the group's standard deviation (k - 1 in the denominator) plus `eps`: GRPO, Shao et
    al. 2402.03300, section 4.1.2. Without it: Dr. GRPO, Liu et al. 2503.20783, section 3.2, where the
    division is shown to weigh prompts that are nearly always or nearly never solved above the others. Undivided
    it is (k - 1) / k times the leave-one-out advantage. ValueError for k < 2.
    """
    _group_size(rewards, "group_normalised")
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + eps) if divide_by_std else centred


def standardise(advantages: Tensor, *, floor: float = 1e-6) -> Tensor:
    """Advantages divided by their standard deviation (population form) over the whole batch.

    The mean is left alone: leave-one-out advantages have mean 0 already, and a shift would reward or punish
    every completion of the batch alike. A batch whose deviation is below `floor` carries no signal and is
    returned as it is, since scaling it up would train on rounding noise.
    """
    deviation = advantages.std(unbiased=False)
    return advantages if float(deviation) < floor else advantages / deviation


def token_returns(score_advantages: Tensor, token_kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Token-level RLOO: A_t = score advantage - beta * sum of KL over the policy tokens from t on; (b, t).

    `score_advantages` (b,) have the leave-one-out baseline of the scores alone (no KL in them); `token_kl` (b, t)
    is k1 in nats; the result is 0 where the mask is. This is what OpenRLHF calls RLOO. The sequence-level form,
    `leave_one_out(score - beta * KL)`, goes by the same name and is not the same number: there every token
    carries the KL of the tokens before it too, which it cannot change, and the baseline holds the others' KL. On
    the policy's own samples both have the same expected gradient; the variances differ.
    """
    from_here = _from_here(torch.where(mask > 0, token_kl, 0.0))
    return torch.where(mask > 0, score_advantages[:, None] - beta * from_here, 0.0)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 1506.02438, eq. 16) over the policy's tokens.

    `rewards`, `values` and `mask` are (b, t); returns the advantages and the returns (advantage + value, what the
    value function is fitted to), both (b, t), both 0 where the mask is. Tokens under mask 0 are skipped as if
    they were not there: the next value is that of the next policy token, and after the last one it is 0. A
    reward on a skipped token is not counted, so put it on the policy token that earned it.
    """
    real = mask > 0
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        error = rewards[:, t] + gamma * next_value - values[:, t]
        here = error + gamma * lam * next_advantage
        advantages[:, t] = torch.where(real[:, t], here, 0.0)
        next_advantage = torch.where(real[:, t], here, next_advantage)
        next_value = torch.where(real[:, t], values[:, t], next_value)
    return advantages, torch.where(real, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, *, floor: float = 1e-6) -> Tensor:
    """Values (b, t) scaled to a standard deviation of 1 (population form) over the masked entries; 0 elsewhere.

    With `shift_mean` (for advantages) the mean becomes 0; without (for rewards) the mean stays what it was and
    only the spread around it is scaled. Give the whole batch: parts whitened one by one are not comparable. A
    deviation below `floor` is left unscaled, since there is nothing but rounding noise to scale.
    """
    mean = masked_mean(values, mask)
    centred = values - mean
    deviation = masked_mean(centred.square(), mask).sqrt()
    scaled = centred if float(deviation) < floor else centred / deviation
    return torch.where(mask > 0, scaled if shift_mean else scaled + mean, 0.0)


def place_score(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores (b,) as token rewards (b, t): each on the last policy token of its row, 0 elsewhere.

    A row without a policy token has no place for its score and is 0 throughout.
    """
    real = mask > 0
    return torch.where(real & (_from_here(real) == 1), scores[:, None], 0.0)


def _from_here(values: Tensor) -> Tensor:
    """Sum of each row from every position to its end."""
    return values.flip(-1).cumsum(-1).flip(-1)


def _group_size(rewards: Tensor, caller: str) -> int:
    k = rewards.shape[-1]
    if k < 2:
        raise ValueError(f"{caller} needs at least 2 completions a prompt, got {k}")
    return k
