"""The configuration of a campaign: one frozen tree, checked once when it is read.

A YAML file fills it; an unknown key is an error that names the file, the key and the nearest valid one.
Everything that changes a result is in here, and so its digest stands in every lineage.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from rlback.errors import ConfigError
from rlback.settings import (
    AdapterConfig,
    DPOConfig,
    GRPOConfig,
    ModelShape,
    OnlineDPOConfig,
    PPOConfig,
    RewardConfig,
    RewardShape,
    RLOOConfig,
    SupervisedConfig,
)
from rlback.trees import parse, require_numbers


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class DPOCampaign(DPOConfig):
    """Offline DPO in a campaign, which samples from its candidates too."""

    max_new_tokens: int = Field(gt=0)
    temperature: float = Field(1.0, gt=0)


#: How a policy is optimised, by the name that `optimise.method` gives; without one it is RLOO.
METHODS = {"rloo": RLOOConfig, "grpo": GRPOConfig, "ppo": PPOConfig, "online_dpo": OnlineDPOConfig, "dpo": DPOCampaign}


def _method(part: Any) -> Any:
    return part.get("method", "rloo") if isinstance(part, dict) else getattr(part, "method", "rloo")


OptimiseConfig = Annotated[
    Annotated[RLOOConfig, Tag("rloo")]
    | Annotated[GRPOConfig, Tag("grpo")]
    | Annotated[PPOConfig, Tag("ppo")]
    | Annotated[OnlineDPOConfig, Tag("online_dpo")]
    | Annotated[DPOCampaign, Tag("dpo")],
    Discriminator(_method),
]


#: A campaign's name becomes part of paths.
CAMPAIGN_NAME = r"^[a-z][a-z0-9-]{0,40}$"
LARGEST_CONFIG_BYTES = 100_000
OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")  # likewise, for a number
NO_NUMBER = ("int_", "float_", "finite_number")  # likewise, what their names begin with
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's kinds of error for one


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _number_share_or_names(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    share = isinstance(value, float) and 0 < value < 1  # NaN is neither
    if number or share or (isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError("give a number of groups, at least 0, a share of them between 0 and 1 like 0.1, or a list of their names")


class SourceConfig(_Part):
    """Where prompts and first preferences come from: a controlled world, or files of people's preferences."""

    world: str | None = None
    pairs_file: str = "strict_pairs.jsonl.gz"  # read when --pairs names a directory
    text_file: str = "train.txt.xz"  # read when --text names a directory
    group_column: str | None = None
    group_until: str | None = None
    skip_invalid: bool = False  # count and leave out rows that cannot be used, instead of refusing the file
    published: str = ""  # accuracy others reported on held-out groups of this data, shown beside ours
    # Groups kept apart for the reward model's accuracy: how many to draw with the seed, which share of them, or their names.
    held_out: Annotated[int | float | tuple[str, ...], BeforeValidator(_number_share_or_names)] = 0
    max_prompt_tokens: int = Field(64, gt=1)
    max_completion_tokens: int = Field(256, gt=1)


class BaseConfig(_Part):
    """The base policy: trained here, or read from disk in Hugging Face format (`model`: its directory)."""

    model: str | None = None
    shape: ModelShape | None = None
    vocabulary: int = Field(4096, ge=300, le=2**24)  # byte-level BPE entries; a world brings its own words
    training: SupervisedConfig | None = None
    text_share: float = Field(0.5, ge=0, le=1)  # share of windows from --text, the rest from the pairs' texts
    text_bytes: int = Field(30_000_000, gt=0)  # how much of the text is read

    @model_validator(mode="after")
    def _one_way(self) -> BaseConfig:
        if self.model is None and (self.shape is None or self.training is None):
            raise ValueError("a base policy needs either model, or both shape and training")
        return self


class RewardModelConfig(_Part):
    """The reward model's form and fit, on all labels so far.

    `start`: every refresh begins from the base policy's trunk (`fresh`), or from the reward model before it (`warm`).
    """

    shape: RewardShape = RewardShape()
    training: RewardConfig
    start: Literal["fresh", "warm"] = "fresh"
    reference_samples: int = Field(256, ge=8)  # base samples on which scores get mean 0 and variance 1
    # Weight of given pairs whose shorter completion was preferred. Where the longer one mostly wins, a model can do
    # well by reading length alone; at (share longer) / (share shorter) both kinds weigh the same.
    shorter_weight: float = Field(1.0, gt=0, le=1_000_000)


class OutcomeConfig(_Part):
    """An automated outcome reward: a Python function of (prompt, completion), or a command that reads JSON lines.

    `function`: FILE.py:NAME, relative to the project. `command`: its words; it is run in the project's directory, gets a
    line {"prompt", "completion"} a completion and prints a line with a number each.
    """

    function: str | None = Field(None, pattern=r"^[^:]+\.py:[A-Za-z_]\w*$")
    command: tuple[str, ...] | None = Field(None, min_length=1)
    timeout_s: float = Field(300.0, gt=0, le=7 * 24 * 3600)  # of the command, a batch

    @model_validator(mode="after")
    def _one_of_them(self) -> OutcomeConfig:
        if (self.function is None) == (self.command is None):
            raise ValueError("an outcome reward is either a function or a command")
        return self

    @property
    def shown(self) -> str:
        """How messages and lineages call it."""
        return self.function or " ".join(self.command or ())


def _kind_of_scores(part: Any) -> str:
    return "outcome" if isinstance(part, dict | OutcomeConfig) else "name"


ScoresConfig = Annotated[
    Annotated[Literal["reward_model", "annotators"], Tag("name")] | Annotated[OutcomeConfig, Tag("outcome")],
    Discriminator(_kind_of_scores),
]


class LabelsConfig(_Part):
    """How many comparisons are labelled, by whom, and how it is watched.

    Gold items and repeats are hidden among a batch's comparisons; no gate, snapshot or fit counts them. Gold items come
    from `gold_file`, and without one from earlier comparisons on which two annotators or more agreed.
    """

    annotators: Literal["human", "simulated"]
    initial: int = Field(ge=0)  # pairs of base samples, before round 1
    inside: int = Field(ge=0)  # a round: pairs of two candidate samples
    cross: int = Field(ge=0)  # a round: candidate against start checkpoint, on fresh prompts
    temperature: float = Field(0.5, ge=0)  # simulated annotators: 0 is noiseless
    lapse: float = Field(0.05, ge=0, lt=0.5)
    hype_bias: float = 0.0
    overlap: int = Field(1, ge=1, le=20)  # people: annotators a comparison
    gold_share: float = Field(0.0, ge=0, le=0.5)  # of what an annotator is shown, comparisons with a known answer
    repeat_share: float = Field(0.0, ge=0, le=0.5)  # of what an annotator is shown, comparisons they labelled before
    gold_file: str | None = None  # JSON lines {prompt, a, b, answer, why}, in the project
    practice: int = Field(0, ge=0, le=50)  # the first so many of gold_file are shown to new annotators, with the answer

    @model_validator(mode="after")
    def _people(self) -> LabelsConfig:
        if self.annotators == "simulated" and (self.overlap > 1 or self.gold_share or self.repeat_share or self.practice):
            raise ValueError("overlap, gold_share, repeat_share and practice are for human annotators")
        if self.practice and self.gold_file is None:
            raise ValueError("practice needs gold_file, whose first items it shows")
        if self.gold_share + self.repeat_share > 0.5:
            raise ValueError("gold_share and repeat_share are together at most 0.5")
        return self


class QuorumRule(_Part):
    """So many approvals by people who hold a role (accounts/roles.py)."""

    role: Literal["annotator", "approver", "operator", "auditor", "admin"]
    count: int = Field(1, ge=1, le=20)


class GateConfig(_Part):
    """Who decides, and what a simulated approver goes by.

    `quorum`: approvals needed, each by another person (none: one approval). When `deadline_hours` have passed since a
    gate opened, that is said, and then `on_deadline`: the campaign goes on waiting, or the candidate is declined.
    """

    approver: Literal["human", "simulated", "always"]
    win_rate: float = Field(0.55, ge=0, le=1)
    quorum: tuple[QuorumRule, ...] = ()
    deadline_hours: float | None = Field(None, gt=0, le=24 * 366)
    on_deadline: Literal["wait", "decline"] = "wait"

    @model_validator(mode="after")
    def _of_people(self) -> GateConfig:
        if self.approver != "human" and (self.quorum or self.deadline_hours is not None):
            raise ValueError("quorum and deadline_hours are about people: set gate.approver: human")
        if self.on_deadline == "decline" and self.deadline_hours is None:
            raise ValueError("on_deadline: decline needs deadline_hours")
        return self


class EvaluationConfig(_Part):
    """What is measured beside the labels."""

    prompts: int = Field(256, ge=8)
    eps: float = Field(0.5, ge=0)  # gold standard deviations; MX_false counts advantages worse than this


class CampaignConfig(_Part):
    """One campaign. Methods are settings of this one machine, not forks of it.

    `start`: the checkpoint a round starts from (rollback RLHF: `approved`; no rollback: `candidate`; from
    base: `base`). `refresh`: whether the reward model is fitted anew after each round.
    """

    name: str = Field(pattern=CAMPAIGN_NAME)
    policy: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,40}$")
    seed: int = Field(0, ge=0)
    threads: int = Field(1, gt=0, le=1024)
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = Field(gt=0)
    stop_after_approvals: int | None = Field(None, gt=0)
    start: Literal["approved", "candidate", "base"] = "approved"
    refresh: bool = True
    source: SourceConfig
    base: BaseConfig
    reward_model: RewardModelConfig
    optimise: OptimiseConfig
    # What a completion is worth to the optimiser. `annotators`: direct RL from labels, without a reward model.
    scores: ScoresConfig = "reward_model"
    adapter: AdapterConfig | None = None  # train a low-rank adapter on the frozen base instead of all weights
    labels: LabelsConfig
    gate: GateConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def fits_reward_models(self) -> bool:
        """Whether this method learns a reward model at all."""
        return self.scores == "reward_model" and not isinstance(self.optimise, DPOCampaign)

    @model_validator(mode="after")
    def _fits_together(self) -> CampaignConfig:
        if self.gate.approver != "always" and self.labels.cross == 0:
            raise ValueError("a gate needs evidence: set labels.cross above 0, or gate.approver: always")
        if self.source.world is None and self.labels.annotators == "simulated":
            raise ValueError("labels.annotators: simulated needs source.world; real preferences need human")
        learns = self.fits_reward_models or isinstance(self.optimise, DPOCampaign)
        if self.source.world is not None and self.labels.initial == 0 and learns:
            raise ValueError("labels.initial must be above 0 in a world: the first reward model, or DPO, learns from them")
        if self.scores == "annotators" and self.labels.annotators != "simulated":
            raise ValueError("scores: annotators asks for a verdict in every step, so labels.annotators must be simulated")
        if isinstance(self.optimise, DPOCampaign) and self.scores != "reward_model":
            raise ValueError("optimise.method: dpo learns from pairs and asks for no scores; leave scores out")
        shape, tokens = self.base.shape, self.optimise.max_new_tokens
        if self.base.model is None and shape is not None and shape.max_positions <= tokens:
            raise ValueError(
                f"base.shape.max_positions {shape.max_positions} has no room for a prompt and {tokens} new tokens; "
                "raise it, or lower optimise.max_new_tokens"
            )
        if self.policy in ("latest",) or (self.policy[0] == "v" and self.policy[1:].isdigit()):
            raise ValueError(f"policy: {self.policy!r} is a reserved name")
        return self


def read_config(path: Path, overrides: dict[str, Any] | None = None) -> CampaignConfig:
    """Reads and checks a campaign's YAML file; `overrides` maps dotted keys to values.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key or value is wrong.
    """
    examples = Path(__file__).resolve().parents[2] / "configs"
    tree = read_tree(path, "configuration file", str(examples) if examples.is_dir() else "configs/ in a checkout")
    for key, value in (overrides or {}).items():
        _set(tree, key.split("."), value, path)
    return check_config(tree, str(path))


def read_tree(path: Path, what: str, examples: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; `what` is the file's name in errors, `examples` where good ones lie.

    Raises:
        ConfigError: the file is missing, no regular file, too large, unreadable, no YAML or no mapping; or see `trees.parse`.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would block for ever
            raise ConfigError(f"{path} is not a regular file", remedy=f"give a YAML file; see {examples} for examples")
        if path.exists() and path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {LARGEST_CONFIG_BYTES} bytes, which no {what} is")
        tree = parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}", remedy=f"see {examples} for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values")
    return tree


def check_config(tree: dict[str, Any], place: str) -> CampaignConfig:
    """Builds the configuration from plain values; `place` is what errors name.

    Raises:
        ConfigError: see `read_config`.
    """
    try:
        config = CampaignConfig.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        # A misspelt key goes first: with a required key it is also the reason why that one is missing.
        first = next((e for e in found if e["type"] in UNKNOWN_KEY), found[0])
        more = error.error_count() - 1
        tail = f" (and {more} more)" if more else ""
        message, remedy = _explain(first, place, tail)
    else:
        require_numbers(tree, config.model_dump(), place)
        return config
    # Raised outside the handler: the text of pydantic's error holds all of its input, however large that has grown.
    raise ConfigError(message, remedy=remedy)


def _explain(error: Any, place: str, tail: str) -> tuple[str, str | None]:
    location = [str(part) for part in error["loc"]]
    member = location[1] if len(location) > 1 and location[0] in ("optimise", "scores") else None
    union = {**METHODS, "outcome": OutcomeConfig, "name": None}
    if member in union:
        del location[1]  # pydantic names the member of a union too; a file has no such level
    dotted = ".".join(location)
    if error["type"] in UNKNOWN_KEY:
        valid = list(union[member].__pydantic_fields__) if member in union else _valid_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        remedy = f"did you mean `{near[0]}`?" if near else f"valid keys here: {', '.join(valid)}"
        return f"{place}: unknown key `{dotted}`{tail}", remedy
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = error["input"].get("method") if isinstance(error["input"], dict) else error["input"]
        return f"{place}: `{dotted}`: there is no method {str(given)[:60]!r}{tail}", f"methods: {', '.join(METHODS)}"
    if error["type"] == "missing":
        return f"{place}: the key `{dotted}` is missing{tail}", f"add `{dotted}:` to the file"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (it is {repr(given)[:80]})" if isinstance(given, (str, int, float, bool)) else ""
    remedy = f"give `{dotted}` a value within that bound" if error["type"] in OUT_OF_BOUNDS else None
    remedy = f"give `{dotted}` a number" if error["type"].startswith(NO_NUMBER) else remedy
    return f"{place}: `{dotted or 'the campaign'}`: {message}{shown}{tail}", remedy


def _valid_keys(path: list[str]) -> list[str]:
    model: Any = CampaignConfig
    for part in path:
        annotation = model.__pydantic_fields__[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if hasattr(o, "__pydantic_fields__"))
    return list(model.__pydantic_fields__)


def _set(tree: dict[str, Any], keys: list[str], value: Any, path: Path) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: `{key}` is not a section, so `{'.'.join(keys)}` cannot be set")
    tree[keys[-1]] = value


def parse_override(text: str) -> tuple[str, Any]:
    """`key.sub=value` as given with --set; the value is read as YAML.

    Raises:
        ConfigError: there is no `=`, or the value is no YAML; or see `trees.parse`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text!r} is not of the form key=value")
    try:
        parsed = parse(value, f"--set {key}")
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"--set {key}: {value!r} is not a YAML value") from None
    if isinstance(parsed, float) and not math.isfinite(parsed):
        raise ConfigError(f"--set {key}: the value must be finite")
    return key, parsed
