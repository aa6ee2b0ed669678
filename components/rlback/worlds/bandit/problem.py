"""The bandit itself: base policy, gold reward, what a reward model can see, and what is planted.

Scenario 1: the base policy has a bad mode (`bad_mass`). Scenario 2: the base policy is harmless, but the
target is far from it; how far, in units of how far one reward model carries, is the axis `rho`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlback.errors import ConfigError
from rlback.worlds.bandit import policies
from rlback.worlds.bandit.policies import Array


@dataclass(frozen=True)
class Bandit:
    """One problem for each seed. gold: expectation 0 and standard deviation 1 under the base policy.

    base (s, x, a): log-probabilities. gold (s, x, a). visible (s, x, a, f): the features a reward model sees;
    the last two are length and confidence (halved length under warmth, where it is the dose, 0 to 10). length,
    confidence (s, x, a): what biased annotators like.
    planted (s, x, a), bool: items that are bad by gold and may fool an annotator. bad (s, x, a), bool: the
    fixed bad set of MX_bad, which is the planted items.
    """

    base: Array
    gold: Array
    visible: Array
    length: Array
    confidence: Array
    planted: NDArray[np.bool_]

    @property
    def bad(self) -> NDArray[np.bool_]:
        return self.planted

    @property
    def seeds(self) -> int:
        return self.gold.shape[0]


@dataclass(frozen=True)
class BanditConfig:
    """Size and difficulty of a bandit. ConfigError names what is out of range.

    features: latent features that gold is linear in. seen: how many of them the reward model sees; fewer than
    `features` makes it misspecified. planted: bad items in each context. planted_cost: by how much gold is lower
    there, in gold standard deviations before standardising. bad_mass: the base policy's probability of planted
    items in each context (scenario 1), None for whatever the base gives them. away: the base policy is tilted by
    exp(-away * gold), so that the target lies further off (scenario 2). sharpness: spread of the base logits.
    warmth: strength of a feature that is good in the doses the base policy uses and bad beyond; without it gold
    is linear in independent features, and a misspecified reward model gains less but its gold hardly ever falls.
    """

    contexts: int = 8
    actions: int = 40
    features: int = 6
    seen: int = 4
    planted: int = 2
    planted_cost: float = 3.0
    bad_mass: float | None = None
    away: float = 0.0
    sharpness: float = 0.5
    warmth: float = 0.0

    def __post_init__(self) -> None:
        if self.contexts < 1 or self.actions < 2:
            raise ConfigError("a bandit has at least 1 context and 2 actions", remedy="raise contexts or actions")
        if not 1 <= self.seen <= self.features:
            raise ConfigError(
                f"seen must lie between 1 and features ({self.features}), not {self.seen}",
                remedy="set seen to features for a well-specified reward model, lower for a misspecified one",
            )
        if not 0 <= self.planted < self.actions:
            raise ConfigError(
                f"planted must lie between 0 and actions - 1 ({self.actions - 1}), not {self.planted}",
                remedy="plant fewer items",
            )
        if not 0 <= self.warmth < math.inf:
            raise ConfigError(f"warmth must be 0 or more, not {self.warmth}", remedy="set 0 (off) or 1")
        if self.bad_mass is not None and not (0 < self.bad_mass < 1 and self.planted > 0):
            raise ConfigError(
                f"bad_mass {self.bad_mass} needs planted items and a value between 0 and 1",
                remedy="set planted to 1 or more and bad_mass to a share such as 0.3",
            )


#: Doses of warmth: 0 to 10.
_DOSES = 11


def make(config: BanditConfig, seeds: int, seed: int = 0) -> Bandit:
    """`seeds` problems drawn independently; the same `seed` gives the same problems."""
    rng = np.random.default_rng(seed)
    shape = (seeds, config.contexts, config.actions)
    latent = rng.standard_normal((*shape, config.features))
    direction = rng.standard_normal((seeds, 1, 1, config.features))
    gold = (latent * direction).sum(-1) / np.linalg.norm(direction, axis=-1)
    length, confidence = rng.standard_normal(shape), rng.standard_normal(shape)
    planted = np.zeros(shape, dtype=bool)
    # Random columns: which items are planted is independent of every feature.
    columns = rng.random(shape).argsort(-1)[..., : config.planted]
    np.put_along_axis(planted, columns, True, -1)
    gold = gold - config.planted_cost * planted
    tilt, scale, seen = -config.away * gold, 1.0, [latent[..., : config.seen]]
    if config.warmth:
        # As the visit notes' hype words: +0.9 h - 0.15 h^2 for h = 0..10, each e times rarer than the one before.
        length = rng.integers(_DOSES, size=shape).astype(float)
        dose = config.warmth * (0.9 * length - 0.15 * length**2)
        gold = gold + dose
        tilt, scale = tilt - config.away * dose - length, 0.5
        seen.append(length[..., None] ** 2 / 12)  # visible, but base pairs hold next to nothing about it
    base = policies.log_softmax(config.sharpness * rng.standard_normal(shape) + tilt)
    if config.bad_mass is not None:
        base = _with_mass(base, planted, config.bad_mass)
    mean = policies.value(base, gold)[:, None, None]
    gold = (gold - mean) / policies.spread(base, gold)[:, None, None]
    visible = np.concatenate([*seen, scale * length[..., None], confidence[..., None]], -1)
    return Bandit(base, gold, visible, length, confidence, planted)


def bad_probability(bandit: Bandit, log_policy: Array) -> Array:
    """Probability (s,) that the policy answers with an item of the bad set."""
    return policies.value(log_policy, bandit.bad.astype(float))


def distance_needed(bandit: Bandit, target: float) -> Array:
    """Shortest distance sqrt(KL), (s,), from the base to a policy with J = target; infinite if there is none."""
    nearest = policies.optimum_at_value(bandit.base, bandit.gold, target)
    reached = policies.value(nearest, bandit.gold) >= target - 1e-6
    return np.where(reached, np.sqrt(policies.kl(nearest, bandit.base)), np.inf)


def peak_distance(bandit: Bandit, reward: Array, distances: Array) -> Array:
    """Distance sqrt(KL), (s,), at which the optimum for `reward` has its highest gold, among those given (d,)."""
    golds = [policies.value(policies.optimum_at_kl(bandit.base, reward, d**2), bandit.gold) for d in distances]
    return distances[np.stack(golds).argmax(0)]


def rho(bandit: Bandit, reward: Array, target: float, distances: Array) -> Array:
    """Distance needed for `target` over the distance at which the first reward model peaks (science, 2.1), (s,).

    Above 1 (scenario 2) the first reward model does not carry that far. Infinite where the target is out of
    reach or the reward model's gold peaks at distance 0.
    """
    peak = peak_distance(bandit, reward, distances)
    return np.divide(distance_needed(bandit, target), peak, out=np.full(peak.shape, np.inf), where=peak > 0)


def _with_mass(log_policy: Array, items: NDArray[np.bool_], mass: float) -> Array:
    """The policy with the items' total probability in each context set to `mass`, proportions kept otherwise."""
    p = np.exp(log_policy)
    inside = np.where(items, p, 0.0)
    outside = p - inside
    return np.log(mass * inside / inside.sum(-1, keepdims=True) + (1 - mass) * outside / outside.sum(-1, keepdims=True))
