"""Settings of the text worlds as learners of studies: what a study's file may say, and what it says by default.

The defaults for visits are the sizes at which an attempt takes seconds on one core; they are those of configs/demo.yaml but for
fewer steps and samples.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from rlback.errors import ConfigError
from rlback.models.devices import DeviceName
from rlback.settings import ModelShape, RewardConfig, RewardShape, SupervisedConfig
from rlback.studies.arms import config_error

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class TextSettings:
    """What every text world measures and samples. bases: how many base policies are trained; seed s begins with number
    s mod bases, so that runs with the same one share what is peculiar to it (their differences are paired all the
    same). eval_prompts: prompts a measurement samples two completions for; nothing is trained on them.
    reference_samples: base samples that scores are standardised on.
    """

    bases: Count = 1
    eval_prompts: Annotated[int, Field(gt=1)] = 64
    reference_samples: Annotated[int, Field(gt=1)] = 128
    max_new_tokens: Count = 48


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class VisitsSettings(TextSettings):
    """The world "visits". shape, training: of the base policy. dishonest, terse: shares of its corpus by writers who say
    the opposite of the notes (scenario 1: a bad mode, which is the planted set) and by writers who make one true claim
    and stop (scenario 2: the target is far away); see worlds/visits_writers.py.
    """

    dishonest: Share = 0.0
    terse: Share = 0.0
    shape: ModelShape = ModelShape(d_model=64, layers=2, heads=4, mlp=192, max_positions=64)
    training: SupervisedConfig = SupervisedConfig(steps=600, batch=48, lr=0.005, warmup=30, weight_decay=0.1)

    def __post_init__(self) -> None:
        if self.dishonest + self.terse > 1:
            raise ValueError(f"dishonest and terse are shares of one corpus, and add up to {self.dishonest + self.terse:g}")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class GoldSettings:
    """The gold reward model of the world "arguments". model: a Hugging Face directory that its trunk is read from;
    without it a trunk of `shape`, trained on text as `training` says. reward, reward_shape: the fit to all human pairs
    of the held-out debates. completion_tokens: it reads an argument up to here. folds: of its cross-validation, by
    debates. at_least: how many times the proxies' parameters it must have.
    """

    reward: RewardConfig
    completion_tokens: Count
    shape: ModelShape | None = None
    training: SupervisedConfig | None = None
    model: str | None = None
    reward_shape: RewardShape = RewardShape(pooling="mean")
    folds: Annotated[int, Field(ge=2)] = 4
    at_least: Positive = 10.0

    def __post_init__(self) -> None:
        _one_origin(self.model, self.shape, self.training)
        _settled(self.reward, self.training)


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class ArgumentsSettings(TextSettings):
    """The world "arguments". pairs: a file of human preferences, read as campaigns read it (group_column, group_until).

    Its groups (debates) are parted with split_seed. On `held_out` of them gold is fitted and policies are measured;
    on the prompts of `labelled` others people compare; the rest are what policies optimise on. The base policy is
    trained on the arguments of all debates that are not held out, and on `text` for `text_share` of the windows
    (text_bytes: of the text, from its beginning), or read from the Hugging Face directory `base_model`. vocabulary: of
    the tokenizer that a base and a gold model trained here share. A prompt has at most max_prompt_tokens.
    """

    gold: GoldSettings
    pairs: str | None = None
    text: str | None = None
    group_column: str = "topic"
    group_until: str | None = "_"
    held_out: Count = 8
    labelled: Count = 4
    split_seed: Annotated[int, Field(ge=0)] = 0
    shape: ModelShape | None = None
    training: SupervisedConfig | None = None
    base_model: str | None = None
    vocabulary: Annotated[int, Field(ge=259)] = 4096
    text_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    text_bytes: Count = 12_000_000
    max_prompt_tokens: Annotated[int, Field(gt=1)] = 48
    device: DeviceName = "auto"

    def __post_init__(self) -> None:
        _one_origin(self.base_model, self.shape, self.training)
        _settled(self.training)
        if self.base_model is not None and self.bases > 1:
            raise ValueError("bases must be 1 where base_model is read from disk: they would all be the same")
        rooms = (("shape", self.shape, self.max_new_tokens), ("gold.shape", self.gold.shape, self.gold.completion_tokens))
        for name, shape, completion in rooms:
            if shape is not None and shape.max_positions < self.max_prompt_tokens + completion:
                raise ValueError(
                    f"{name}.max_positions {shape.max_positions} has no room for a prompt of {self.max_prompt_tokens} "
                    f"and a completion of {completion} tokens"
                )


def _one_origin(model: str | None, shape: ModelShape | None, training: SupervisedConfig | None) -> None:
    if model is None and (shape is None or training is None):
        raise ValueError("give shape and training, or a directory with a model")
    if model is not None and (shape is not None or training is not None):
        raise ValueError("a model read from disk has a shape and is trained: leave shape and training out")


def _settled(*parts: SupervisedConfig | RewardConfig | None) -> None:
    if any(part is not None and part.precision == "auto" for part in parts):
        raise ValueError("precision auto would be measured anew at every resume; say fp32 or bf16")


@dataclass(frozen=True, config=_STRICT)
class TextOptimiser:
    """RLOO on prompts_per_step times samples_per_prompt completions a step at learning rate lr times a segment's size;
    beta: a KL penalty that every arm has, on top of its own; kl_limit: nats a completion from the reference beyond
    which a run counts as diverged. reward, reward_shape: of reward models. dpo_lr, dpo_batch: of DPO, and direct_lr of
    learning straight from verdicts, two completions each. outcome_above: gold, in standard deviations above the
    base's mean, from which the automated check passes. length_normaliser, no_end_penalty, max_padded: see
    settings.OnPolicy and RLOOConfig; max_padded of DPO, too. precision: of both.
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
    length_normaliser: Positive = 20.0
    no_end_penalty: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    max_padded: Count = 1024


@dataclass(frozen=True, config=_STRICT)
class TextAnnotator:
    """See worlds/annotators.py: temperature in units of gold before standardising. hype_bias: for each hype word of
    visits, and for each word of an argument. length_bias: for each word. fooled: for a completion of the planted set.
    """

    temperature: AtLeastZero = 0.5
    lapse: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    hype_bias: float = 0.0
    length_bias: float = 0.0
    fooled: float = 0.0


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
