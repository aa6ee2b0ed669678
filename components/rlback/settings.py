"""Settings of models and training loops: defined here once, for configuration files and for the loops alike.

A campaign's YAML holds these parts (config.py); a loop takes one as it is. Checked when made, frozen, and free of
torch. Where no default fits every use (sizes, rates, steps) there is none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

#: `auto`: the faster one, measured on the machine when a campaign starts and recorded with it (campaign/hardware.py).
Precision = Literal["auto", "fp32", "bf16"]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]  # of Adam
MOST_EPOCHS = 100_000  # a run of more would never end
Epochs = Annotated[float, Field(gt=0, le=MOST_EPOCHS)]  # 0.5: half of the pairs, once


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
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0)] = 30  # steps; then cosine down to 0
    clip: Positive = 1.0  # gradient norm
    weight_decay: AtLeastZero = 0.0
    precision: Precision = "fp32"
    window: Annotated[int, Field(gt=1)] = 128  # tokens; for text streams
    max_padded: Count = 2560  # tokens, padding included, that go through the model at once


@dataclass(frozen=True, config=_STRICT)
class RewardShape:
    """What a reward model reads and where its scalar comes from.

    pooling: `last` reads the end token (last real token), `mean` averages the completion's states, `sum` adds up a
    value per completion token. surprise (with `sum` only): a token's value also depends on how much likelier or less
    likely it was than the frozen policy expected. A tiny reward model without it memorises its training pairs: it
    cannot learn from some hundred labels which words contradict the prompt, but the policy it was built from knows,
    and shows it by being surprised.

    bag (with `last` and `mean`): one more member beside the trunk's, a line through the bag of the completion's tokens. A
    small trunk sees a few hundred texts too often to learn from them which words go with a good one; the line learns
    that. Each is fitted as if it were alone: fitted to one loss, the trunk would leave the line nothing to learn.

    With `members` above 1 it is an ensemble, and `combine` says how the members' scores, each at mean 0 and variance 1
    on the reference samples, become one (maths/ensembles.py); `uncertainty_weighted` takes `uncertainty_weight` times
    their variance off their mean. With `share_trunk` the members are heads on one trunk, for little more time than one
    member takes; without it each has a trunk of its own, for that many times the time and memory.
    """

    pooling: Literal["last", "mean", "sum"] = "last"
    surprise: bool = False
    members: Annotated[int, Field(gt=0, le=1000)] = 1
    combine: Literal["mean", "worst_case", "uncertainty_weighted"] = "mean"
    uncertainty_weight: AtLeastZero = 0.0
    share_trunk: bool = True
    bag: bool = False

    def __post_init__(self) -> None:
        if self.surprise and self.pooling != "sum":
            raise ValueError("surprise needs a value per token: use it with pooling: sum")
        if self.bag and self.pooling == "sum":
            raise ValueError("pooling: sum has a value per token already: use bag with last or mean")
        if self.bag and not self.share_trunk:
            raise ValueError("bag goes with members on one trunk: leave share_trunk at true")
        if self.count == 1 and self.combine != "mean":
            raise ValueError("combine is about several members: set members above 1")
        if self.members == 1 and not self.share_trunk:
            raise ValueError("share_trunk is about several members: set members above 1")
        if (self.combine == "uncertainty_weighted") != (self.uncertainty_weight > 0):
            raise ValueError("combine: uncertainty_weighted and an uncertainty_weight above 0 go together")

    @property
    def count(self) -> int:
        """How many scores a completion gets: one of each member on a trunk, and one of the bag."""
        return self.members + self.bag


@dataclass(frozen=True, config=_STRICT)
class RewardConfig:
    """Fitting a reward model to preference pairs (Bradley-Terry). `batch` counts pairs a step.

    Bradley-Terry leaves the level of the scores free; two penalties hold it near 0. `score_l2` times half the sum of
    both sides' mean squared scores shrinks the differences, too; `centering` times the mean squared sum of a pair's
    two scores leaves them alone (maths/bradley_terry.py). Pairs with target 1/2 (ties) are left out unless `use_ties`.
    With `bootstrap` each member of an ensemble sees its own resample of the pairs; a single model sees them all once.
    """

    epochs: Epochs = 1.0
    batch: Count = 32
    lr: Positive = Field(...)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    token_table_lr_factor: Positive = 10.0  # of the bag as well
    head_lr_factor: Positive = 1.0
    trunk_lr_factor: Positive = 1.0
    weight_decay: AtLeastZero = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    score_l2: AtLeastZero = 0.0
    centering: AtLeastZero = 0.0
    use_ties: bool = False
    bootstrap: bool = True
    warmup: Annotated[int, Field(ge=0)] = 10  # steps; then cosine down to 0
    clip: Positive = 1.0
    precision: Precision = "fp32"
    max_padded: Count = 2560


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class OnPolicy:
    """What every method that trains on its own samples has in common; one step samples, scores and updates.

    `beta` is the KL coefficient (reward per nat). With `kl_in: reward` the KL (k1) is taken off the reward; with `loss`
    the estimator `kl_loss` is differentiated (maths/kl.py says which gradient each has). `kl_target` (nats per
    completion) lets beta adapt. A rollout is gone through `epochs` times in `minibatches` parts, one update each;
    beyond the first update the ratio to the sampling policy is clipped to [1 - ratio_low, 1 + ratio_high].
    `no_end_penalty` is taken off the reward of a completion that was cut before its end token. `kl_budget` (nats per
    completion, from the reference) ends the run before the update on the first rollout whose mean KL is above it, and
    `on_kl_budget` says as what: the policy is the result (`stop`), or there is none and an error says why (`fail`).
    `checkpoint_every` is in steps; 0: never. With `precision: bf16` update, reference and reward model run under bf16
    autocast, and the sampler's matrix products are bf16. The old log-probabilities are then those of a pass of the
    update's kind and not the sampler's: a token was seen to be as much as 0.9 nats off between the two on a sharp policy.
    Where a step has one update that pass is the update's own, kept for it; else it is one more than fp32 needs.
    `max_padded` is the most tokens of one pass, padding counted; of one update in bf16 the activations of two such
    passes are held at once.
    """

    steps: Count
    lr: Positive
    beta: AtLeastZero
    max_new_tokens: Count
    precision: Precision = "fp32"
    prompts_per_step: Count = 16
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4  # a completion is compared with the others of its prompt
    temperature: Positive = 1.0
    epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS)] = 1
    minibatches: Count = 1
    ratio_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    ratio_high: Positive = 0.2
    kl_in: Literal["reward", "loss"] = "reward"
    kl_loss: Literal["k2", "k3"] = "k2"
    kl_target: Positive | None = None
    kl_horizon: Positive = 10_000.0  # completions
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Positive = 1.0  # gradient norm
    no_end_penalty: float = 0.0
    kl_budget: Positive | None = None
    on_kl_budget: Literal["stop", "fail"] = "stop"
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    max_padded: Count = 2560

    def __post_init__(self) -> None:
        completions = self.prompts_per_step * self.samples_per_prompt
        if self.minibatches > completions:
            raise ValueError(f"minibatches {self.minibatches} are more than the {completions} completions of a step")
        if self.kl_target is not None and completions >= 5 * self.kl_horizon:
            raise ValueError(f"kl_horizon {self.kl_horizon} is too short for the {completions} completions of a step")
        if self.on_kl_budget == "fail" and self.kl_budget is None:
            raise ValueError("on_kl_budget: fail needs a kl_budget")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class RLOOConfig(OnPolicy):
    """REINFORCE with a leave-one-out baseline. Two objectives go by the name.

    `sequence` (Ahmadian et al. 2402.14740): score - beta * KL of the whole completion, less the mean of the others;
    one ratio per completion. `token` (OpenRLHF's): the baseline is taken from the scores alone, and every token is
    charged with the KL from it to the end; one ratio per token.
    """

    method: Literal["rloo"] = "rloo"
    objective: Literal["sequence", "token"] = "sequence"
    length_normaliser: Positive = 20.0  # the loss is divided by this many tokens
    advantage_std: bool = True  # advantages are divided by their deviation over the batch


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class GRPOConfig(OnPolicy):
    """Group-relative policy optimisation (2402.03300), or its correction Dr. GRPO (2503.20783).

    `grpo` divides a group's advantages by its deviation and averages each completion over its own tokens; `dr_grpo`
    does neither, and divides by `max_new_tokens`.
    """

    method: Literal["grpo"] = "grpo"
    variant: Literal["grpo", "dr_grpo"] = "grpo"
    kl_in: Literal["reward", "loss"] = "loss"
    kl_loss: Literal["k2", "k3"] = "k3"


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class PPOConfig(OnPolicy):
    """Proximal policy optimisation (1707.06347) with a value model and GAE (1506.02438); KL per token in the reward."""

    method: Literal["ppo"] = "ppo"
    samples_per_prompt: Count = 1
    epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS)] = 4
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    value_clip: Positive = 0.2
    value_coefficient: AtLeastZero = 0.1
    value_lr_factor: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_in != "reward":
            raise ValueError("ppo takes the KL off each token's reward; set kl_in: reward")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class OnlineDPOConfig(OnPolicy):
    """DPO or IPO on fresh samples: the best- against the worst-scored completion of each prompt (2402.04792).

    `beta` is the inverse temperature; no KL is in the reward. A prompt whose completions all score the same is left
    out of the step.
    """

    method: Literal["online_dpo"] = "online_dpo"
    samples_per_prompt: Annotated[int, Field(ge=2)] = 2
    loss: Literal["dpo", "ipo"] = "dpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs != 1 or self.minibatches != 1:
            raise ValueError("online_dpo makes one update on each rollout: leave epochs and minibatches at 1")
        if self.beta <= 0 or self.kl_target is not None:
            raise ValueError("online_dpo needs a fixed beta above 0")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class DPOConfig:
    """Offline DPO (2305.18290) or IPO (2310.12036) on preference pairs. `batch` counts pairs a step.

    `beta` is the inverse temperature (IPO's tau). `length_mean` (IPO) takes log-probabilities per token, as TRL does.
    """

    method: Literal["dpo"] = "dpo"
    loss: Literal["dpo", "ipo"] = "dpo"
    lr: Positive
    beta: Positive
    epochs: Epochs = 1.0
    batch: Count = 32
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    warmup: Annotated[int, Field(ge=0)] = 10  # steps; then cosine down to 0
    clip: Positive = 1.0
    weight_decay: AtLeastZero = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    length_mean: bool = False
    precision: Precision = "fp32"
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    max_padded: Count = 2560

    def __post_init__(self) -> None:
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to loss: dpo; ipo has none")
        if self.loss == "dpo" and self.length_mean:
            raise ValueError("length_mean belongs to loss: ipo")



@dataclass(frozen=True, config=_STRICT)
class AdapterConfig:
    """A low-rank adapter (LoRA, 2106.09685): a frozen matrix W acts as W + alpha / rank * B A, and only A and B are trained.

    `targets`: every linear layer but the output matrix, or the layers whose names end in these names (`q_proj`,
    `mlp.down_proj`). There is no dropout, in an adapter as anywhere: what samples must be what is trained.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
