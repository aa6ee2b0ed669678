"""Settings of models and training loops: defined here once, for configuration files and for the loops alike.

A campaign's YAML holds these parts (config.py); a loop takes one as it is. Checked when made, frozen, and free of
torch. Where no default fits every use (sizes, rates, steps) there is none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Precision = Literal["fp32", "bf16"]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=_STRICT)
class ModelShape:
    """Size of a Llama-architecture model made from nothing; `mlp`: inner width, `max_positions`: prompt plus completion."""

    d_model: Count
    layers: Count
    heads: Count
    mlp: Count
    max_positions: Annotated[int, Field(gt=1)]

    def __post_init__(self) -> None:
        if self.d_model % (2 * self.heads):
            # Rotary positions turn the coordinates of a head in pairs.
            raise ValueError(
                f"d_model {self.d_model} does not give {self.heads} heads an even width each; "
                f"use a multiple of {2 * self.heads}"
            )


@dataclass(frozen=True, config=_STRICT)
class SupervisedConfig:
    """Training of the base policy on text. `batch` counts sequences, or windows of `window` tokens, a step."""

    steps: Annotated[int, Field(ge=0)]
    batch: Count
    lr: Positive
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0)] = 30  # steps; then cosine down to 0
    clip: Positive = 1.0  # gradient norm
    weight_decay: AtLeastZero = 0.0
    precision: Precision = "fp32"
    window: Annotated[int, Field(gt=1)] = 128  # tokens; for text streams
    max_padded: Count = 1024  # tokens, padding included, that go through the model at once


@dataclass(frozen=True, config=_STRICT)
class RewardShape:
    """What a reward model reads and where its scalar comes from.

    pooling: `last` reads the end token (last real token), `mean` averages the completion's states, `sum` adds up a
    value per completion token. surprise (with `sum` only): a token's value also depends on how much likelier or less
    likely it was than the frozen policy expected. A tiny reward model without it memorises its training pairs: it
    cannot learn from some hundred labels which words contradict the prompt, but the policy it was built from knows,
    and shows it by being surprised.
    """

    pooling: Literal["last", "mean", "sum"] = "last"
    surprise: bool = False

    def __post_init__(self) -> None:
        if self.surprise and self.pooling != "sum":
            raise ValueError("surprise needs a value per token: use it with pooling: sum")


@dataclass(frozen=True, config=_STRICT)
class RewardConfig:
    """Fitting a reward model to preference pairs (Bradley-Terry). `batch` counts pairs a step.

    `score_l2` times the mean squared score is added to the loss: Bradley-Terry leaves the level of the scores free,
    and this holds it near 0.
    """

    epochs: Count = 1
    batch: Count = 32
    lr: Positive = Field(...)
    betas: tuple[float, float] = (0.9, 0.98)
    token_table_lr_factor: Positive = 10.0
    head_lr_factor: Positive = 1.0
    trunk_lr_factor: Positive = 1.0
    weight_decay: AtLeastZero = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    score_l2: AtLeastZero = 0.0
    warmup: Annotated[int, Field(ge=0)] = 10  # steps; then cosine down to 0
    clip: Positive = 1.0
    precision: Precision = "fp32"
    max_padded: Count = 1024


@dataclass(frozen=True, config=_STRICT)
class RLOOConfig:
    """Policy optimisation by REINFORCE with a leave-one-out baseline, KL in the reward.

    `beta` is the KL coefficient (reward per nat). `no_end_penalty` is taken off the reward of a completion that was
    cut before its end token. `kl_budget` (nats per completion, from the reference) ends the run before the update on
    the first batch whose mean KL is above it. `checkpoint_every` is in steps.
    """

    steps: Count
    lr: Positive
    beta: AtLeastZero
    max_new_tokens: Count
    prompts_per_step: Count = 16
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4  # leave-one-out compares a completion with the others of its prompt
    betas: tuple[float, float] = (0.9, 0.95)
    clip: Positive = 1.0
    length_normaliser: Positive = 20.0  # the loss is divided by this many tokens
    advantage_std: bool = True
    temperature: Positive = 1.0
    no_end_penalty: float = 0.0
    kl_budget: Positive | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] = 0  # 0: never
    max_padded: Count = 1024
