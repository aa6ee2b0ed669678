"""Segments of a text world: one lane's training by the loops of the product, read out at its checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlback.errors import TrainingDiverged
from rlback.maths.advantages import leave_one_out
from rlback.maths.misreward import exposure
from rlback.models.digests import weights_digest
from rlback.models.policy import Policy
from rlback.models.reward_model import RewardModel, new_reward_model
from rlback.models.tokenizers import decode, encode_prompt
from rlback.records import Comparison, Completion, Verdict, digest_of, seed_of
from rlback.settings import DPOConfig, RewardShape, RLOOConfig
from rlback.studies.protocol import Array, Segment, StepCheckpoint, no_exposure
from rlback.studies.shared import REWARD, once
from rlback.studies.text_base import Base
from rlback.studies.text_policies import TextPolicy
from rlback.studies.text_scores import Score
from rlback.studies.text_settings import TextOptimiser
from rlback.studies.text_world import TextWorld
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import StepRecord, optimise
from rlback.training.reward import TokenPair, fit_reward
from rlback.training.scorers import AnnotatorScorer, Scorer
from rlback.training.state import tokens_digest
from rlback.worlds.annotators import SimulatedAnnotator

#: Gold by (prompt, text, whether it ended), and the people who know it.
Known = dict[tuple[str, str, bool], float]
People = Callable[[Known], SimulatedAnnotator]
#: What people add to the gold of completions of prompts, (n,).
Liked = Callable[[Sequence[str], Sequence[Completion]], Array]
Ids = Sequence[int]


@dataclass(frozen=True)
class Lane:
    """Where a segment begins: the base of its seed, the start policy, and the seed of all its draws."""

    base: Base
    start: Policy
    optimiser: TextOptimiser
    seed: int


@dataclass
class Walked:
    """What a lane did. policies: by steps done, the last one included; exposures alike, (5, 2) so far."""

    policies: dict[int, Policy] = field(default_factory=dict)
    exposures: dict[int, Array] = field(default_factory=dict)
    labels_per_step: int = 0
    steps: int = 0
    diverged: bool = False


def fitted(
    base: Base, pairs: Sequence[TokenPair], members: int, optimiser: TextOptimiser, seed: int, shared: Path | None = None
) -> Score:
    """A reward model from the base's trunk, standardised on its samples; several members are heads on one trunk.

    shared: where it is kept for other runs that fit the same.
    """
    shape = optimiser.reward_shape if members == 1 else replace(optimiser.reward_shape, members=members)

    def make(state: Path | None) -> RewardModel:
        model = new_reward_model(base.policy, shape, seed_of(seed, "weights"))
        fit_reward(model, pairs, optimiser.reward, seed=seed_of(seed, "order"), state_dir=state)
        drawn = base.reference
        model.rescale(drawn.ids, [c.ids for c in drawn.completions])
        return model

    name = "" if shared is None else _reward_name(base, pairs, shape, optimiser, seed)
    model = once(shared, name, REWARD, make).to(base.world.device)
    return Score(base, (model,), "last" if members == 1 else "mean")


def _reward_name(
    base: Base, pairs: Sequence[TokenPair], shape: RewardShape, optimiser: TextOptimiser, seed: int
) -> str:
    """A digest of what determines the model."""
    reference = [c.ids for c in base.reference.completions]
    tokens = tokens_digest([*reference, *(ids for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected))])
    key = [weights_digest(base.policy.model), tokens, asdict(shape), asdict(optimiser.reward), seed, base.world.device.type]
    return f"reward-{digest_of(key)[:16]}"


def side_by_side(start: Sequence[TextPolicy], segment: Segment, walk: Callable[[int], Walked]) -> Iterator[StepCheckpoint]:
    """Runs the lanes one after the other and yields their checkpoints together.

    A lane is run to its end before the first checkpoint: whoever stops reading early saves no time here.
    """
    wanted = segment.steps
    lanes, last = len(start), int(wanted.max(initial=0))
    walked = [walk(lane) if wanted[lane] else Walked({0: start[lane]}) for lane in range(lanes)]  # type: ignore[dict-item]
    for t in sorted({*range(segment.every, last, segment.every), last} - {0}):
        done = np.array([min(t, int(wanted[lane]), w.steps) for lane, w in enumerate(walked)], dtype=np.int64)
        reached = [max((s for s in w.policies if s <= d), default=None) for w, d in zip(walked, done, strict=True)]
        seen = no_exposure(lanes)
        for lane, (w, d) in enumerate(zip(walked, done, strict=True)):
            if d:
                seen[lane] = w.exposures.get(int(d), no_exposure(1)[0])
        yield StepCheckpoint(
            done,
            tuple(start[lane] if at is None else walked[lane].policies[at] for lane, at in enumerate(reached)),
            seen,
            done * np.array([w.labels_per_step for w in walked]),
            np.array([w.diverged and d == w.steps for w, d in zip(walked, done, strict=True)]),
        )


def on_scores(lane: Lane, score: Scorer, segment: Segment, steps: int) -> Walked:
    """RLOO against a scorer."""
    o = lane.optimiser
    config = RLOOConfig(
        steps=steps, lr=o.lr * segment.size, prompts_per_step=o.prompts_per_step, samples_per_prompt=o.samples_per_prompt,
        **_common(lane, segment),
    )  # fmt: skip
    return _rloo(lane, score, config, segment, Walked())


def _common(lane: Lane, segment: Segment) -> dict[str, Any]:
    o = lane.optimiser
    return {
        "beta": o.beta + segment.beta, "max_new_tokens": lane.base.world.settings.max_new_tokens, "kl_budget": o.kl_limit,
        "checkpoint_every": segment.every, "length_normaliser": o.length_normaliser, "no_end_penalty": o.no_end_penalty,
        "precision": o.precision, "max_padded": o.max_padded,
    }  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """A scorer that asks people; gold, which they know, is asked for once a batch."""

    lane: Lane
    people: People
    liked: Liked
    name: str
    graded: bool = False

    def score(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        base = self.lane.base
        texts = {tuple(p): base.world.prompt_text(base.policy.tokenizer, p) for p in prompts}
        asked = [texts[tuple(p)] for p in prompts]
        written = {tuple(c): base.completion(c) for c in completions}
        told = known(asked, [written[tuple(c)] for c in completions], base.world, self.liked)
        annotator = self.people(told)

        def compare(prompt: Ids, a: Ids, b: Ids) -> Verdict:
            comparison = Comparison(texts[tuple(prompt)], written[tuple(a)], written[tuple(b)], "inside")
            return annotator.verdict(comparison, seed_of(self.lane.seed, "direct", tuple(prompt), tuple(a), tuple(b)))

        return AnnotatorScorer(compare, self.name).score(prompts, completions)

    def identity(self) -> str:
        return digest_of(["annotator", self.name])


def known(prompts: Sequence[str], completions: Sequence[Completion], world: TextWorld, liked: Liked) -> Known:
    """What these completions are worth to people: gold, which they know, and what they like besides."""
    worth = (np.array(world.golds(prompts, completions)) + liked(prompts, completions)).tolist()
    return {(p, c.text, c.finished): value for p, c, value in zip(prompts, completions, worth, strict=True)}


def on_people(lane: Lane, people: People, liked: Liked, labels_per_step: int, segment: Segment, steps: int) -> Walked:
    """RLOO on verdicts: two completions for each of `labels_per_step` prompts, +1 and -1."""
    o = lane.optimiser
    scorer = _Asked(lane, people, liked, digest_of([people({}).lineage(), lane.seed]))
    config = RLOOConfig(
        steps=steps, lr=o.direct_lr * segment.size, prompts_per_step=labels_per_step, samples_per_prompt=2,
        **_common(lane, segment),
    )  # fmt: skip
    return _rloo(lane, scorer, config, segment, Walked(labels_per_step=labels_per_step))


def on_pairs(lane: Lane, pairs: Sequence[TokenPair], segment: Segment, temperature: float, steps: int) -> Walked:
    """DPO on given pairs, as many steps as the segment has, however many passes over the pairs that is."""
    o, walked = lane.optimiser, Walked()
    policy = _copy(lane.start)
    config = DPOConfig(
        lr=o.dpo_lr * segment.size, beta=temperature, batch=o.dpo_batch, checkpoint_every=segment.every,
        # Half a step less than asked for: the loop rounds up.
        epochs=(steps - 0.5) * o.dpo_batch / len(pairs), precision=o.precision, max_padded=o.max_padded,
    )  # fmt: skip

    def keep(done: int, current: Policy) -> None:
        walked.policies[done], walked.steps = _copy(current), done

    try:
        fit_dpo(policy, _copy(lane.start), pairs, config, seed=lane.seed, on_checkpoint=keep)
        keep(steps, policy)
    except TrainingDiverged:
        walked.diverged = True
    return walked


def _rloo(lane: Lane, scorer: Scorer, config: RLOOConfig, segment: Segment, walked: Walked) -> Walked:
    policy, tokenizer = _copy(lane.start), lane.base.policy.tokenizer
    reference = _copy(lane.start if segment.reference == "start" else lane.base.policy)
    prompts = lane.base.world.prompts(seed_of(lane.seed, "prompts"), config.steps * config.prompts_per_step, "train")
    tokens = [tuple(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    texts = dict(zip(tokens, prompts, strict=True))
    so_far = no_exposure(1)[0]

    def observe(record: StepRecord) -> None:
        so_far[:] += _exposure(record, texts, lane.base, config.lr)
        walked.exposures[record.step + 1] = so_far.copy()

    def keep(done: int, current: Policy) -> None:
        walked.policies[done], walked.steps = _copy(current), done

    try:
        result = optimise(
            policy, reference, scorer, tokens, config, seed=lane.seed, on_checkpoint=keep, observe=observe
        )
    except TrainingDiverged:
        walked.diverged = True  # the last checkpoint stands
        return walked
    keep(result.steps, policy)
    walked.diverged = result.stopped == "kl_budget"
    return walked


def _exposure(record: StepRecord, texts: dict[tuple[int, ...], str], base: Base, rate: float) -> Array:
    """Parts and wholes of one step at a learning rate, (5, 2); see protocol.no_exposure and text.py."""
    completions = [
        Completion(decode(base.policy.tokenizer, ids), ids, done)
        for ids, done in zip(record.completions, record.finished, strict=True)
    ]
    prompts = [texts[tuple(prompt)] for prompt in record.prompts]
    gold = torch.tensor(base.world.golds(prompts, completions))
    advantages = leave_one_out((gold / base.gold_sd).view(-1, record.samples_per_prompt)).flatten()
    own, weights = record.advantages.flatten().cpu(), record.weights.flatten().cpu()
    found = exposure(own, advantages, weights, learning_rate=rate)
    upward, planted = weights * (own > 0), base.world.planted(prompts, completions)
    bad = [0.0, 0.0] if planted is None else [float(upward[torch.tensor(planted)].sum()), float(upward.sum())]
    return np.array([
        [found.sign_wrong, found.sign_all], [found.false_wrong, found.false_all], bad, [0.0, 0.0],
        [found.integrated, rate * found.sign_all],
    ])  # fmt: skip


def _copy(policy: Policy) -> Policy:
    return Policy(copy.deepcopy(policy.model), policy.tokenizer)
