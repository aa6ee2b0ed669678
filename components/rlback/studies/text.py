"""Text worlds as a learner: a language model, reward models on its trunk, RLOO, and people simulated. What the worlds
differ in (prompts, gold, the making of a base policy) is behind text_world.TextWorld.

One lane after the other, since a language model fills a core on its own. Policies and reward models are lists with a
lane each. Gold is measured on fresh samples for prompts that nothing is trained on. Exposures are estimated on the
samples of each step of a method with advantages: sign, false, and where the world has a planted set bad, as the share of
the upward weight that lies on it (what the step moves, to first order). MX_flow stays at 0 of 0, no share: gradients
under gold would double the time of a step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from rlback.errors import ConfigError, TrainingDiverged
from rlback.maths.early_signals import order_agreement, reward_variance
from rlback.models.policy import Policy
from rlback.models.tokenizers import encode_prompt
from rlback.records import Comparison, Completion, seed_of
from rlback.studies import text_steps as steps
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
from rlback.studies.text_base import Base, make_base
from rlback.studies.text_policies import TextPolicy, distance, drawn_from, logps_of, weights_of
from rlback.studies.text_scores import Score, joined, scores_of
from rlback.studies.text_settings import TextAnnotator, TextOptimiser, checked
from rlback.studies.text_world import Drawn, TextWorld
from rlback.training.reward import TokenPair
from rlback.training.threads import use_threads
from rlback.worlds.annotators import SimulatedAnnotator

#: Policies whose evaluation samples are kept: a candidate is measured again as the kept policy.
_REMEMBERED = 4

#: Lanes of policies, and of scorers; a lane without a label has no scorer.
Policies = tuple[TextPolicy, ...]
Scores = tuple[Score | None, ...]


@dataclass(frozen=True)
class TextLabels:
    """Comparisons of each lane with verdicts: wins (lanes, count), 1 for side a, 1/2 for a tie."""

    comparisons: tuple[tuple[Comparison, ...], ...]
    wins: Array


@dataclass(frozen=True)
class TextLearner:
    """See protocol.Learner. usual_size: the size of a step that the optimiser's learning rates are meant for."""

    world: TextWorld
    optimiser: TextOptimiser
    annotator: TextAnnotator
    seeds: tuple[int, ...]
    usual_size: float
    methods = frozenset({"rl", "direct", "dpo", "best_of_n"})
    scorers = frozenset({"gold", "outcome"})
    # Members are heads on one trunk, whose averaged weights give their mean.
    combines = COMBINES - {"weight_average"}

    @classmethod
    def of(cls, world: TextWorld, request: Request) -> TextLearner:
        """The learner that was asked for."""
        optimiser = checked(TextOptimiser, request.optimiser, f"{request.place}: optimiser")
        annotator = checked(TextAnnotator, request.annotator, f"{request.place}: annotator")
        if annotator.fooled and world.planted((), ()) is None:
            raise ConfigError(
                f"{request.place}: annotator: `fooled` needs planted completions, and the world {world.name} has none",
                remedy="leave fooled out, or use the world visits",
            )
        plan = request.extra.get("plan", {})
        usual = plan["segment_length"] / plan["segment_steps"] if plan else 1.0
        return cls(world, optimiser, annotator, request.seeds, usual)

    @property
    def inputs(self) -> Mapping[str, str]:
        return self.world.inputs

    def rehearsal(self) -> tuple[TextLearner, list[Beginning]]:
        world, todo = self.world.rehearsal()
        return replace(self, world=world), todo

    def facts(self) -> dict[str, Any]:
        return self.world.facts()

    @property
    def lanes(self) -> int:
        return len(self.seeds)

    @cached_property
    def bases(self) -> tuple[Base, ...]:
        """Trained at the first use, not before: a study's file is checked without it."""
        use_threads(1)
        numbers = [seed % self.world.settings.bases for seed in self.seeds]
        made = {number: make_base(self.world, number) for number in sorted(set(numbers))}
        return tuple(made[number] for number in numbers)

    def base(self) -> Policies:
        return tuple(base.policy for base in self.bases)

    def select(self, mask: Mask, chosen: Policies, other: Policies) -> Policies:
        return tuple(a if on else b for on, a, b in zip(mask, chosen, other, strict=True))

    def select_models(self, mask: Mask, chosen: Scores, other: Scores) -> Scores:
        return tuple(a if on else b for on, a, b in zip(mask, chosen, other, strict=True))

    @torch.no_grad()
    def interpolate(self, base: Policies, other: Policies, eta: float) -> Policies:
        made = []
        for near, far in zip(base, other, strict=True):
            start, end = weights_of(near, "an interpolated start"), weights_of(far, "an interpolated start")
            between = copy.deepcopy(start)
            for mine, theirs in zip(between.model.parameters(), end.model.parameters(), strict=True):
                mine.lerp_(theirs, eta)
            made.append(between)
        return tuple(made)

    def collect(self, side_a: Policies, side_b: Policies, count: int, key: Key) -> TextLabels:
        lanes, wins = [], []
        for lane, (a, b) in enumerate(zip(side_a, side_b, strict=True)):
            found = self._comparisons(lane, a, b, count, key)
            lanes.append(found)
            wins.append(self._verdicts(found, self._seed(lane, "verdict", *key)))
        return TextLabels(tuple(lanes), np.array(wins).reshape(len(lanes), count))

    def _comparisons(self, lane: int, a: TextPolicy, b: TextPolicy, count: int, key: Key) -> tuple[Comparison, ...]:
        seed = self._seed(lane, "collect", *key)
        prompts, source = self.world.prompts(seed, count, "gate"), "inside" if a is b else "cross"
        if a is b:
            drawn = self._draw(a, prompts, seed, 2)
            sides = list(zip(drawn.completions[::2], drawn.completions[1::2], strict=True))
        else:
            # Two draws of their own: with one seed two near policies would write the same.
            first, second = self._draw(a, prompts, seed), self._draw(b, prompts, seed_of(seed, "other side"))
            sides = list(zip(first.completions, second.completions, strict=True))
        return tuple(Comparison(p, one, two, source) for p, (one, two) in zip(prompts, sides, strict=True))

    def _verdicts(self, comparisons: Sequence[Comparison], seed: int) -> list[float]:
        sides = [c.a for c in comparisons] + [c.b for c in comparisons]
        people = self._people(steps.known([c.prompt for c in comparisons] * 2, sides, self.world, self._liked))
        return [{"a": 1.0, "b": 0.0}.get(people.verdict(c, seed), 0.5) for c in comparisons]

    def _liked(self, prompts: Sequence[str], completions: Sequence[Completion]) -> Array:
        """What the annotators add to gold, (n,): for words, and for planted completions."""
        added = self.annotator.length_bias * np.array([float(len(c.text.split())) for c in completions])
        planted = self.world.planted(prompts, completions) if self.annotator.fooled else None
        return added if planted is None else added + self.annotator.fooled * np.array(planted, dtype=float)

    def _people(self, known: steps.Known) -> SimulatedAnnotator:
        a = self.annotator
        return SimulatedAnnotator(
            "sim-annotator", lambda *what: known[what], temperature=a.temperature, lapse=a.lapse, hype_bias=a.hype_bias,
            hype=self.world.hype,
        )  # fmt: skip

    def wins(self, labels: TextLabels) -> Array:
        return labels.wins

    def predicted(self, labels: TextLabels, reward: Scores) -> Array:
        found = np.full(labels.wins.shape, 0.5)
        for lane, score in enumerate(reward):
            if score is not None and found.shape[1]:
                prompts = [self._tokens(c.prompt) for c in labels.comparisons[lane]]
                a, b = (score.score(prompts, [getattr(c, side).ids for c in labels.comparisons[lane]]) for side in "ab")
                found[lane] = torch.sigmoid(score.log_odds((a - b).double())).numpy()
        return found

    def fit(self, data: Sequence[Batch], members: int, key: Key, *, sample: Counts | None = None) -> Scores:
        found: list[Score | None] = []
        for lane, base in enumerate(self.bases):
            pairs = self._pairs(lane, data)
            if sample is not None:
                order = np.random.default_rng(self._seed(lane, "sample", *key)).permutation(len(pairs))
                pairs = [pairs[i] for i in order[: int(sample[lane])]]
            seed = self._seed(lane, "fit", *key)
            # Arms that begin with as many labels have their first model in common; later ones are an arm's own.
            shared = self.world.shared if key == ("fit", 1) else None
            try:
                found.append(steps.fitted(base, pairs, members, self.optimiser, seed, shared) if pairs else None)
            except TrainingDiverged:
                found.append(None)  # a run that would follow it counts as diverged
        return tuple(found)

    def _pairs(self, lane: int, data: Sequence[Batch]) -> list[TokenPair]:
        """Labels of a lane as pairs of the token ids that were sampled; ties and equal sides say nothing."""
        pairs = []
        for batch in data:
            if not batch.lanes[lane]:
                continue
            for c, win in zip(batch.labels.comparisons[lane], batch.labels.wins[lane], strict=True):
                if win != 0.5 and c.a.ids != c.b.ids:
                    chosen, rejected = (c.a, c.b) if win == 1 else (c.b, c.a)
                    pairs.append(TokenPair(self._tokens(c.prompt), chosen.ids, rejected.ids))
        return pairs

    def combine(self, models: Sequence[Scores], has: Sequence[Mask], how: Combine, weight: float) -> Scores:
        made: list[Score | None] = []
        for lane in range(self.lanes):
            there = [(m[lane], bool(mask[lane])) for m, mask in zip(models, has, strict=True)]
            scores = [(score, on) for score, on in there if score is not None]
            made.append(joined([s for s, _ in scores], [on for _, on in scores], how, weight) if scores else None)
        return tuple(made)

    def scorer(self, name: str) -> Scores:
        if name not in self.scorers:
            there = ", ".join(sorted(self.scorers))
            raise ConfigError(f"the world {self.world.name} has no scorer {name!r}", remedy=f"one of {there}")
        return tuple(Score(base, check=name, outcome_above=self.optimiser.outcome_above) for base in self.bases)

    def optimise(self, start: Policies, reward: Scores, segment: Segment, key: Key) -> Iterator[StepCheckpoint]:
        usual = replace(segment, size=segment.size / self.usual_size)

        def walk(lane: int) -> steps.Walked:
            score = reward[lane]
            if score is None:
                return steps.Walked(diverged=True)
            return steps.on_scores(self._lane(lane, start[lane], key), score, usual, int(segment.steps[lane]))

        return steps.side_by_side(start, segment, walk)

    def optimise_on_people(
        self, start: Policies, labels_per_step: int, segment: Segment, key: Key
    ) -> Iterator[StepCheckpoint]:
        usual = replace(segment, size=segment.size / self.usual_size)

        def walk(lane: int) -> steps.Walked:
            place = self._lane(lane, start[lane], key)
            return steps.on_people(place, self._people, self._liked, labels_per_step, usual, int(segment.steps[lane]))

        return steps.side_by_side(start, segment, walk)

    def optimise_on_pairs(
        self, start: Policies, data: Sequence[Batch], segment: Segment, temperature: float, key: Key
    ) -> Iterator[StepCheckpoint]:
        usual = replace(segment, size=segment.size / self.usual_size)

        def walk(lane: int) -> steps.Walked:
            place = self._lane(lane, start[lane], key)
            return steps.on_pairs(place, self._pairs(lane, data), usual, temperature, int(segment.steps[lane]))

        return steps.side_by_side(start, segment, walk)

    def _lane(self, lane: int, start: TextPolicy, key: Key) -> steps.Lane:
        trained = weights_of(start, "optimising it further")
        return steps.Lane(self.bases[lane], trained, self.optimiser, self._seed(lane, "optimise", *key))

    def best_of_n(self, start: Policies, reward: Scores, n: int) -> Policies:
        from rlback.studies.text_policies import BestOf

        return tuple(BestOf(s, r, n) if r is not None else s for s, r in zip(start, reward, strict=True))

    def evaluate(self, policy: Policies, start: Policies, reward: Scores | None, *, pairs: bool) -> Evaluation:
        rows = [self._measure(lane, policy[lane], start[lane], None if reward is None else reward[lane], pairs)
                for lane in range(self.lanes)]  # fmt: skip
        return Evaluation(*np.array(rows, dtype=float).T)

    def _measure(self, lane: int, policy: TextPolicy, start: TextPolicy, score: Score | None, pairs: bool) -> list[float]:
        """The fields of an Evaluation, in their order."""
        base, drawn = self.bases[lane], self._eval_samples(lane, policy)
        gold = (np.array(drawn.gold) - base.gold_mean) / base.gold_sd
        found = [float(gold.mean()), *[np.nan] * 11]
        planted = self.world.planted(drawn.prompts, drawn.completions)
        if planted is not None:
            found[10] = float(np.mean(planted))
        if pairs and isinstance(policy, Policy) and policy is not base.policy:
            held = self._eval_samples(lane, base.policy)
            found[11] = _agreement(logps_of(policy, held) - np.array(held.logps), held.gold)
        found[3], found[4] = distance(policy, base.policy, drawn), distance(policy, start, drawn)
        if score is None:
            return found
        values = scores_of(score, drawn).numpy()
        found[1] = float(score.log_odds(torch.tensor(values.mean())))
        found[2], found[8] = float(values.mean()), reward_variance(values.reshape(-1, 2))
        if pairs:
            held = self._eval_samples(lane, base.policy)
            for place, sample in ((5, drawn), (6, held)):
                proxy = values if sample is drawn else scores_of(score, sample).numpy()
                found[place] = _agreement(proxy, sample.gold)
            found[7] = float(score.members(drawn.ids, [c.ids for c in drawn.completions]).std(0, unbiased=False).mean())
        return found

    def disagreement(self, policy: Policies, reward: Scores) -> Array:
        found = np.full(self.lanes, np.nan)
        for lane, score in enumerate(reward):
            if score is not None:
                drawn = self._eval_samples(lane, policy[lane])
                found[lane] = float(score.members(drawn.ids, [c.ids for c in drawn.completions]).std(0, unbiased=False).mean())
        return found

    def _eval_samples(self, lane: int, policy: TextPolicy) -> Drawn:
        """Two samples for each evaluation prompt; those of the base and of the last few policies are remembered."""
        for known, drawn in self._drawn[lane]:
            if known is policy:
                return drawn
        prompts = self.world.prompts(seed_of("text evaluation"), self.world.settings.eval_prompts, "eval")
        drawn = self._draw(policy, prompts, self._seed(lane, "evaluation"), 2)
        self._drawn[lane].append((policy, drawn))
        if len(self._drawn[lane]) > _REMEMBERED:
            del self._drawn[lane][1 if self._drawn[lane][0][0] is self.bases[lane].policy else 0]
        return drawn

    @cached_property
    def _drawn(self) -> list[list[tuple[TextPolicy, Drawn]]]:
        return [[] for _ in self.seeds]

    def _draw(self, policy: TextPolicy, prompts: Sequence[str], seed: int, per_prompt: int = 1) -> Drawn:
        return drawn_from(self.world, policy, prompts, seed, per_prompt)

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        return tuple(encode_prompt(self.bases[0].policy.tokenizer, prompt))

    def _seed(self, lane: int, *key: str | int) -> int:
        return seed_of("text", self.seeds[lane], *key)


def _agreement(scores: Array, gold: Sequence[float]) -> float:
    """Share of pairs of a prompt's two samples that scores (n,) order as gold does; NaN where no golds differ."""
    shares = order_agreement(scores.reshape(-1, 2), np.array(gold).reshape(-1, 2))
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else np.nan
