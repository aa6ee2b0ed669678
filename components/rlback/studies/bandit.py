"""The tabular bandit as a learner: problems, labels, fits and steps of many seeds in one set of arrays.

Gold, KL and exposure are exact; pair accuracies are shares of a fixed sample of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass as checked

from rlback.errors import ConfigError
from rlback.records import seed_of
from rlback.studies import bandit_models as models
from rlback.studies import bandit_truth as truth
from rlback.studies.arms import ArmSwap, config_error
from rlback.studies.bandit_models import Scores
from rlback.studies.bandit_steps import Walk, advantages
from rlback.studies.draws import SeedwiseDraws
from rlback.studies.protocol import (
    COMBINES,
    Array,
    Batch,
    Beginning,
    Combine,
    Counts,
    Evaluation,
    Key,
    Mask,
    Request,
    Segment,
    StepCheckpoint,
)  # fmt: skip
from rlback.worlds.bandit import policies
from rlback.worlds.bandit.annotators import BanditAnnotator, Pairs, at, label, win_probability
from rlback.worlds.bandit.problem import Bandit, BanditConfig, make

#: Pairs a seed on which accuracies are measured; a share of them has a standard error of at most 0.03.
ACCURACY_PAIRS = 256


@checked(frozen=True, config={"extra": "forbid"})
class BanditOptimiser:
    """Settings of the learner. ridge: of the reward model's fit. noise, kl_limit: see Walk. momentum: of gradients
    taken straight from verdicts, which are few a step. outcome_above: gold from which the automated check passes.
    """

    ridge: Annotated[float, Field(gt=0)] = 1.0
    noise: Annotated[float, Field(ge=0)] = 1.5
    kl_limit: Annotated[float, Field(gt=0)] = 50.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    outcome_above: float = 1.0


def make_learner(request: Request) -> BanditLearner:
    """See protocol.Make."""
    return BanditLearner(
        _checked(BanditConfig, request.world, f"{request.place}: world"),
        _checked(BanditAnnotator, request.annotator, f"{request.place}: annotator"),
        _checked(BanditOptimiser, request.optimiser, f"{request.place}: optimiser"),
        request.seeds,
    )


def _checked(kind: Any, values: dict[str, Any], place: str) -> Any:
    names = [f.name for f in fields(kind)]
    unknown = [key for key in values if key not in names]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.5)
        raise ConfigError(
            f"{place}: unknown key `{unknown[0]}`",
            remedy=f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(names)}",
        )
    try:
        return kind(**values)
    except ValidationError as error:
        raise config_error(error, kind, place) from None
    except TypeError as error:
        raise ConfigError(f"{place}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", remedy=error.remedy) from None


@dataclass(frozen=True)
class BanditLearner:
    """See protocol.Learner. A policy is its log-probabilities (s, x, a); labels are Pairs; reward models are Scores."""

    config: BanditConfig
    annotator: BanditAnnotator
    optimiser: BanditOptimiser
    seeds: tuple[int, ...]
    methods = frozenset({"rl", "direct", "dpo", "best_of_n"})
    scorers = frozenset({"gold", "outcome", "human"})
    combines = COMBINES

    @property
    def inputs(self) -> dict[str, str]:
        return {}

    def rehearsal(self) -> tuple[BanditLearner, list[Beginning]]:
        return self, []

    def facts(self) -> dict[str, Any]:
        return {}

    @property
    def lanes(self) -> int:
        return len(self.seeds)

    @cached_property
    def bandit(self) -> Bandit:
        """The problems; a seed's problem is the same whichever seeds it is made with."""
        each = [make(self.config, 1, seed_of("bandit", seed)) for seed in self.seeds]
        return Bandit(*(np.concatenate([getattr(b, f.name) for b in each]) for f in fields(Bandit)))

    @cached_property
    def _walk(self) -> Walk:
        return Walk(self.bandit, self.optimiser.noise, self.optimiser.kl_limit)

    def _draws(self, key: Key) -> SeedwiseDraws:
        return SeedwiseDraws(self.seeds, *key)

    def base(self) -> Array:
        return self.bandit.base

    def select(self, mask: Mask, chosen: Array, other: Array) -> Array:
        return np.where(mask[:, None, None], chosen, other)

    def select_models(self, mask: Mask, chosen: Scores, other: Scores) -> Scores:
        wide = mask[:, None, None]
        thetas = None
        if chosen.thetas is not None and other.thetas is not None:
            thetas = np.where(mask[:, None], chosen.thetas, other.thetas)
        return Scores(
            np.where(wide, chosen.table, other.table), np.where(mask, chosen.scale, other.scale),
            np.where(wide, chosen.members, other.members), thetas,
        )  # fmt: skip

    def interpolate(self, base: Array, other: Array, eta: float) -> Array:
        return policies.log_softmax(base + eta * (other - base))

    def collect(self, side_a: Array, side_b: Array, count: int, key: Key) -> Pairs:
        return label(self.bandit, self.annotator, side_a, side_b, count, self._draws(key))

    def wins(self, labels: Pairs) -> Array:
        return labels.a_wins

    def predicted(self, labels: Pairs, reward: Scores) -> Array:
        return models.predicted(reward, labels)

    def fit(self, data: Sequence[Batch], members: int, key: Key, *, sample: Counts | None = None) -> Scores:
        n = models.labels_in(data)
        resamples = members > 1 or sample is not None
        uniform = self._draws(key).random((self.lanes, members, n)) if resamples else np.zeros((self.lanes, 1, n))
        return models.fit(self.bandit, data, members, uniform, self.optimiser.ridge, sample)

    def combine(self, models_: Sequence[Scores], has: Sequence[Mask], how: Combine, weight: float) -> Scores:
        return models.combine(self.bandit, models_, has, how, weight)

    def scorer(self, name: str) -> Scores:
        gold = self.bandit.gold
        check = (gold >= self.optimiser.outcome_above).astype(float)
        table = {"gold": gold, "outcome": check, "human": self.annotator.reward(self.bandit)}[name]
        return models.scores_of_table(self.bandit, table)

    def optimise(self, start: Array, reward: Scores, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        full, none = np.ones(self.lanes), np.zeros(self.lanes, dtype=np.int64)
        return self._walk.follow(start, lambda t, policy: (reward.table, full, none), segment, self._draws(key))

    def optimise_on_people(self, start: Array, labels_per_step: int, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        """Verdicts move the coefficients of the features seen, so that what is learned from one answer carries over to
        others; the gradient is the mean over recent steps (momentum), the step as long as any other.
        """
        visible, asked = self.bandit.visible, np.full(self.lanes, labels_per_step)
        momentum = np.zeros((self.lanes, visible.shape[-1]))

        def signal(t: int, policy: Array) -> tuple[Array, Array, Counts]:
            nonlocal momentum
            pairs = self.collect(policy, policy, labels_per_step, (*key, "verdicts", t))
            difference = at(visible, pairs.context, pairs.a) - at(visible, pairs.context, pairs.b)
            gradient = ((pairs.a_wins - 0.5)[..., None] * difference).mean(1)
            momentum = self.optimiser.momentum * momentum + gradient
            return (visible @ momentum[:, None, :, None])[..., 0], np.ones(self.lanes), asked

        return self._walk.follow(start, signal, segment, self._draws(key))

    def optimise_on_pairs(
        self, start: Array, data: Sequence[Batch], segment: Segment, temperature: float, key: Key
    ) -> Iterator[StepCheckpoint]:
        """DPO's loss in the coefficients w of policy = start times exp(features w), whose implicit reward is
        temperature times features w (Rafailov et al. 2305.18290, eq. 7). Newton's direction, cut to the size of a step.
        """
        visible = self.bandit.visible
        pairs = data[0].labels
        for batch in data[1:]:
            pairs = pairs.joined(batch.labels)
        weight = np.concatenate([np.repeat(b.lanes[:, None], b.count, 1) for b in data], 1).astype(float)
        x = temperature * (at(visible, pairs.context, pairs.a) - at(visible, pairs.context, pairs.b))
        w = np.zeros((self.lanes, visible.shape[-1]))
        ridge = self.optimiser.ridge * temperature**2

        def signal(t: int, policy: Array) -> tuple[Array, Array, Counts]:
            nonlocal w
            p = 0.5 * (1 + np.tanh((x @ w[..., None])[..., 0] / 2))
            gradient = (x.swapaxes(-1, -2) @ (weight * (pairs.a_wins - p))[..., None])[..., 0] - ridge * w
            hessian = x.swapaxes(-1, -2) @ ((weight * p * (1 - p))[..., None] * x) + ridge * np.eye(x.shape[-1])
            move = np.linalg.solve(hessian, gradient[..., None])[..., 0]
            table = (visible @ move[:, None, :, None])[..., 0]
            wanted = advantages(policy, table)[1] / (np.sqrt(2) * segment.size)
            share = np.minimum(wanted, 1.0)
            w = w + move * (share / np.maximum(wanted, 1e-12))[:, None]
            return table, share, np.zeros(self.lanes, dtype=np.int64)

        return self._walk.follow(start, signal, segment, self._draws(key))

    def best_of_n(self, start: Array, reward: Scores, n: int) -> Array:
        return policies.best_of_n(start, reward.table, n)

    def evaluate(self, policy: Array, start: Array, reward: Scores | None, *, pairs: bool) -> Evaluation:
        nothing = np.full(self.lanes, np.nan)
        found = {f.name: nothing for f in fields(Evaluation)}
        found |= {
            "gold": policies.value(policy, self.bandit.gold),
            "kl": np.maximum(policies.kl(policy, self.bandit.base), 0.0),
            "kl_segment": np.maximum(policies.kl(policy, start), 0.0),
            "bad": policies.value(policy, self.bandit.bad.astype(float)),
            "accuracy_implicit": self._accuracy(self.bandit.base, policy - self.bandit.base),
        }
        if reward is not None:
            found["proxy_standardised"] = policies.value(policy, reward.table)
            found["proxy"] = found["proxy_standardised"] * reward.scale
            found["reward_variance"] = policies.spread(policy, reward.table) ** 2
            if pairs:
                found["tail_index"] = truth.tail_index(self.bandit, policy, reward, self._draws(("tail",)))
                found["accuracy_on_policy"] = self._accuracy(policy, reward.table)
                found["accuracy_heldout"] = self._accuracy(self.bandit.base, reward.table)
                if len(reward.members) > 1:
                    found["spread"] = self.disagreement(policy, reward)
        return Evaluation(**found)

    def disagreement(self, policy: Array, reward: Scores) -> Array:
        return policies.value(policy, models.member_spread(reward))

    def preference(self, candidate: Array, kept: Array) -> Array:
        return win_probability(self.bandit, self.annotator, candidate, kept)

    def again(self, labels: Pairs, key: Key) -> Pairs:
        return truth.again(self.bandit, self.annotator, labels, self._draws(key))

    def faults(self, policy: Array, reward: Scores, count: int, key: Key) -> Mask:
        return truth.faults(self.bandit, self.annotator, policy, reward, count, self._draws(key))

    def predicted_wins(self, candidate: Array, kept: Array, reward: Scores, count: int, key: Key) -> Array:
        return models.predicted(reward, label(self.bandit, self.annotator, candidate, kept, count, self._draws(key)))

    def swapped(self, swap: ArmSwap) -> BanditLearner:
        annotator = replace(self.annotator, **truth.UNBIASED) if swap.labels == "gold" else self.annotator
        return BudgetedBandit(self.config, annotator, self.optimiser, self.seeds, swap.optimiser == "exact")

    def _accuracy(self, policy: Array, table: Array) -> Array:
        """Share of pairs of the policy's samples with a difference in gold that a table orders alike, ties one half."""
        drawn = label(self.bandit, BanditAnnotator(temperature=0), policy, policy, ACCURACY_PAIRS, self._draws(("accuracy",)))
        gold, score = self._difference(self.bandit.gold, drawn), self._difference(table, drawn)
        counts = gold != 0
        right = 0.5 * (1 + np.sign(gold * score))
        return np.divide((right * counts).sum(-1), counts.sum(-1), out=np.full(self.lanes, np.nan), where=counts.any(-1))

    @staticmethod
    def _difference(table: Array, pairs: Pairs) -> Array:
        return at(table, pairs.context, pairs.a) - at(table, pairs.context, pairs.b)


@dataclass(frozen=True)
class BudgetedBandit(BanditLearner):
    """A bandit on which every policy stays within the distance its segment is meant to have, the length of the way so far
    and of the segment: of one class, so that what the best of it gains over the real optimiser is the optimiser's fault.
    exact: the best of the class in one step instead of the walk.
    """

    exact: bool = False

    def optimise(self, start: Array, reward: Scores, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        far = np.sqrt(np.maximum(policies.kl(start, self.bandit.base), 0.0)) + segment.steps * segment.size
        if self.exact:
            moved = truth.best_within(self.bandit, start, reward, far**2, segment)
            return iter([truth.checkpoint(self.bandit, start, moved, reward, segment)])
        return truth.within(self.bandit, super().optimise(start, reward, replace(segment, every=1), key), start, far**2, segment)
