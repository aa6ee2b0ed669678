"""Best-of-n sampling: what choosing the best of n completions by a proxy does to the gold reward."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rank_weights(samples: int, n: int) -> Tensor:
    """Probability that the i-th lowest of N samples is the best of n drawn from them without replacement.

    (N,) float64, lowest rank first: C(i-1, n-1) / C(N, n) for i = n..N, 0 before. Computed from log-gamma, so
    that N = 10,000 works, where the binomials themselves overflow. ValueError unless 1 <= n <= N.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"best of n needs 1 <= n <= {samples}, the number of scored samples; got {n}")
    rank = torch.arange(n, samples + 1, dtype=torch.float64)
    log_chosen = rank.lgamma() - (rank - n + 1).lgamma() - math.lgamma(n)
    log_all = math.lgamma(samples + 1) - math.lgamma(n + 1) - math.lgamma(samples - n + 1)
    return torch.cat([torch.zeros(n - 1, dtype=torch.float64), (log_chosen - log_all).exp()])


def expected_gold(proxy: Tensor, gold: Tensor, n: int) -> Tensor:
    """Expected gold reward of the best of n by proxy, from N scored samples: (..., N) and (..., N) to (...).

    The unbiased estimator sum_{i=n}^{N} C(i-1, n-1) / C(N, n) g_(i), with g_(i) the gold reward of the sample
    with the i-th lowest proxy reward: the mean over every subset of n (Nakano et al. 2112.09332; Hilton and Gao,
    "Measuring Goodhart's law", 2022).
    Samples of equal proxy reward share the mean of their gold rewards, as if ties were broken by lot.
    The result is float64. Its variance grows steeply as n nears N: keep n below about N / 4. ValueError unless
    1 <= n <= N.
    """
    weights = rank_weights(proxy.shape[-1], n).to(gold.device)
    ranked, order = proxy.sort(-1)
    steps = ranked[..., 1:] != ranked[..., :-1]
    tie = torch.cat([torch.zeros_like(order[..., :1]), steps.long().cumsum(-1)], -1)  # number of the tie group
    values = gold.double().gather(-1, order)
    sums = torch.zeros_like(values).scatter_add(-1, tie, values)
    sizes = torch.zeros_like(values).scatter_add(-1, tie, torch.ones_like(values))
    shared = (sums / sizes.clamp(min=1)).gather(-1, tie)
    return (weights * shared).sum(-1)


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n, in nats per completion: an upper bound on KL(best-of-n policy || policy).

    Often given as the KL itself, which it is only in the limit where no completion has a noticeable
    probability and no two share a proxy reward; with repeated completions or ties the KL is smaller (Beirami et
    al. 2401.01879). With four equally likely outcomes, for example, it stays below log 4 whatever n. Plot it
    as a bound, or beside a measured KL. ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"best of n needs n >= 1, got {n}")
    return math.log(n) - (n - 1) / n
