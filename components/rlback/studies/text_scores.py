"""What scores completions in a text world: reward models alone or joined, and automated checks on the same scale.

Scores are a few numbers: they leave the reward model's device here, and everything below works on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from rlback.errors import ConfigError
from rlback.maths import ensembles
from rlback.models.reward_model import RewardModel
from rlback.records import digest_of
from rlback.studies.protocol import Combine
from rlback.studies.text_base import Base
from rlback.studies.text_world import Drawn

Tokens = Sequence[int]


@dataclass(frozen=True)
class Score:
    """Scorer of one lane, mean 0 and variance 1 on the base's reference samples; `training.scorers.Scorer`.

    models: reward models whose members are joined as `how` says. check: an automated scorer in their place.
    """

    base: Base
    models: tuple[RewardModel, ...] = ()
    how: Combine = "last"
    weight: float = 0.0
    check: str | None = None
    outcome_above: float = 0.0
    graded: bool = field(default=False)

    def members(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """(members, b), each standardised on the reference samples; an automated check is one member."""
        if self.check is not None:
            return self._checked(prompts, completions)[None]
        models = self.models[-1:] if self.how == "last" else self.models
        return torch.cat([model.member_scores(prompts, completions).cpu() for model in models])

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """(b,) float32."""
        mean, spread = self._scale
        return ((self._joint(self.members(prompts, completions)) - mean) / spread).float()

    def log_odds(self, difference: Tensor) -> Tensor:
        """Differences of two scores as Bradley-Terry log-odds; of joined models about, as the models' mean has it."""
        if self.check is not None:
            return difference
        models = self.models[-1:] if self.how == "last" else self.models
        usual = sum(float(model.scale.mean()) for model in models) / len(models)
        return difference * usual * (self._scale[1] if len(self._reference_members) == 1 else 1.0)

    def identity(self) -> str:
        """A digest of what the scores depend on."""
        parts = [model.identity() for model in self.models]
        return digest_of(["text score", parts, self.how, self.weight, self.check, self.outcome_above, list(self._scale)])

    @cached_property
    def _reference_members(self) -> Tensor:
        drawn = self.base.reference
        return self.members(drawn.ids, [c.ids for c in drawn.completions])

    @cached_property
    def _scale(self) -> tuple[float, float]:
        if self.check == "gold":
            return self.base.gold_mean, self.base.gold_sd
        joint = self._joint(self._reference_members).double()
        return float(joint.mean()), max(float(joint.std(unbiased=False)), 1e-6)

    def _joint(self, members: Tensor) -> Tensor:
        if self.how == "worst_case":
            return ensembles.worst_case(members)
        if self.how == "uncertainty_weighted":
            return ensembles.uncertainty_weighted(members, self.weight)
        return ensembles.mean(members)

    def _checked(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        base = self.base
        texts = [base.world.prompt_text(base.policy.tokenizer, p) for p in prompts]
        gold = base.world.golds(texts, [base.completion(c) for c in completions])
        values = torch.tensor(gold, dtype=torch.float64)
        if self.check == "outcome":
            return (values >= self.base.gold_mean + self.outcome_above * self.base.gold_sd).double()
        return values


def joined(models: Sequence[Score], has: Sequence[bool], how: Combine, weight: float) -> Score:
    """One scorer of those of `models` that the lane has; of the last one where it has none."""
    chosen = [m for m, there in zip(models, has, strict=True) if there] or [models[-1]]
    if how == "last":
        return chosen[-1]
    if how == "weight_average":
        # Refused before a study runs, too: TextLearner.combines.
        raise ConfigError(
            "reward.mode weight_average is not to be had in a text world: its members are heads on one trunk, whose "
            "averaged weights give their mean",
            remedy="set reward.mode to mean, or leave arms ending in -warm out of this study",
        )
    parts = tuple(model for m in chosen for model in m.models)
    return Score(chosen[-1].base, parts, how, weight)


def scores_of(score: Score, drawn: Drawn) -> Tensor:
    """(n,) float64."""
    return score.score(drawn.ids, [c.ids for c in drawn.completions]).double()
