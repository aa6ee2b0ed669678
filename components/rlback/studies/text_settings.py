"""Settings of the text world as a learner of studies: what its study file may say, and what it says by default.

The defaults are the sizes at which an attempt takes seconds on one core; they are those of configs/demo.yaml but for
fewer steps and samples.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from rlback.errors import ConfigError
from rlback.settings import ModelShape, RewardConfig, RewardShape, SupervisedConfig
from rlback.studies.arms import config_error

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=_STRICT)
class TextWorld:
    """The base policy and what is measured on. bases: how many base policies are trained; seed s begins with number
    s mod bases, so that runs with the same one share what is peculiar to it (their differences are paired all the
    same). shape, training: of the base policy. eval_prompts: prompts a measurement samples two completions for;
    nothing is trained on them. reference_samples: base samples that scores are standardised on.
    """

    bases: Count = 1
    shape: ModelShape = ModelShape(d_model=64, layers=2, heads=4, mlp=192, max_positions=64)
    training: SupervisedConfig = SupervisedConfig(steps=600, batch=48, lr=0.005, warmup=30, weight_decay=0.1)
    eval_prompts: Annotated[int, Field(gt=1)] = 64
    reference_samples: Annotated[int, Field(gt=1)] = 128
    max_new_tokens: Count = 48


@dataclass(frozen=True, config=_STRICT)
class TextOptimiser:
    """RLOO on prompts_per_step times samples_per_prompt completions a step at learning rate lr times a segment's size;
    beta: a KL penalty that every arm has, on top of its own; kl_limit: nats a completion from the reference beyond
    which a run counts as diverged. reward, reward_shape: of reward models. dpo_lr, dpo_batch: of DPO, and direct_lr of
    learning straight from verdicts, two completions each. outcome_above: gold, in standard deviations above the
    base's mean, from which the automated check passes.
    """

    lr: Positive = 8e-4
    beta: AtLeastZero = 0.05
    prompts_per_step: Count = 16
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    kl_limit: Positive = 150.0
    reward: RewardConfig = RewardConfig(
        epochs=4, batch=32, lr=0.001, token_table_lr_factor=10, head_lr_factor=3, trunk_lr_factor=0.1,
        weight_decay=0.1, label_smoothing=0.05, score_l2=0.001,
    )  # fmt: skip
    reward_shape: RewardShape = RewardShape(pooling="sum", surprise=True)
    dpo_lr: Positive = 3e-4
    dpo_batch: Count = 32
    direct_lr: Positive = 8e-4
    outcome_above: float = 1.0


@dataclass(frozen=True, config=_STRICT)
class TextAnnotator:
    """See worlds/annotators.py: temperature in units of gold before standardising."""

    temperature: AtLeastZero = 0.5
    lapse: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    hype_bias: float = 0.0


def checked(kind: Any, values: dict[str, Any], place: str) -> Any:
    """Settings of one kind from plain values. ConfigError names the place and the key, and the nearest valid one."""
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            raise ConfigError(
                f"{place}: unknown key `{key}`",
                remedy=f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(names)}",
            )
    try:
        return kind(**values)
    except ValidationError as error:
        raise config_error(error, kind, place) from None
