"""Arms: every method a study compares is one of these records, run by one machine (machine.py).

What the words mean. A *round* ends when a candidate is kept; an arm does `rounds` of them. An *attempt* optimises one
segment from a start, collects labels and is decided on. Declined attempts roll back to the arm's start.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from rlback.errors import ConfigError
from rlback.studies.protocol import Combine

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AtLeastZero = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

Method = Literal["rl", "direct", "dpo", "best_of_n"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, config=_STRICT)
class ArmLabels:
    """Labels in numbers of comparisons a lane. None takes the study's number.

    initial: base pairs before the first round. inside, cross: after an attempt, pairs of the candidate's own samples
    and pairs of candidate against start; the cross pairs are also what a gate of people decides on. feedback: which
    attempts are followed by labels; a gate that needs cross pairs gets them in any case. up_front: what an iterated
    arm would have collected in later rounds is collected on the base policy before the first one instead. After the
    last decision nothing is labelled: it could influence nothing.
    """

    initial: Count | None = None
    inside: Whole | None = None
    cross: Whole | None = None
    feedback: Literal["every", "declined", "kept", "none"] = "every"
    up_front: bool = False


@dataclass(frozen=True, config=_STRICT)
class ArmAsk:
    """What a gate by statistics asks for (maths/gate.py), with alpha spent over rounds and attempts.

    G1, improvement, always: people prefer the candidate with a probability above 1/2 + margin. test `betting` looks after
    every `cross` labels, `looks` times at most, and ends as soon as something is decided; `powered` takes one look and
    the reward model's predictions for `unlabelled` comparisons more. corrected: the win rate is corrected for labels
    that are wrong at random, as often as `duplicates` comparisons labelled twice show. G2: the gate's `overclaim`. G3:
    agreement on `inside` pairs of the candidate's may lie `drop` below that on as many of the kept policy's, relative
    to the ceiling that duplicates show. G4: fewer clear faults than `fault_rate` among the samples scored highest.
    """

    test: Literal["betting", "powered"] = "betting"
    looks: Count = 1
    unlabelled: Count = 400
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    corrected: bool = False
    duplicates: Whole = 0
    inside: Whole = 0
    drop: AtLeastZero | None = None
    fault_rate: Annotated[float, Field(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        if (self.corrected or self.drop is not None) and self.duplicates < 2:
            raise ValueError("what labels can agree on at most shows in duplicates of 2 or more")
        if self.drop is not None and self.inside < 2:
            raise ValueError("a drop of agreement is seen on inside pairs: set ask.inside to 2 or more")


@dataclass(frozen=True, config=_STRICT)
class ArmGate:
    """Who lets a candidate through.

    always: everybody passes. person: labels on the cross pairs, with rule `share` (won at least `threshold` of them,
    ties one half) or `bound` (a confidence sequence, whose alpha is spent over rounds and attempts, excludes a win
    rate below `threshold`). oracle: gold has not fallen. random: a coin with probability `rate`, or with the rate at
    which the arm `rate_from` approved in the same setting. disagreement: the ensemble's spread on the candidate is at
    most `threshold` times that on the start. lookahead: declines every attempt of a round but the last, which it
    passes. overclaim (person, statistics): the reward model may expect at most this much more wins than people gave;
    None does not ask. statistics: G1 to G4, see `ask`. approver: one person who sees the cross comparisons, takes each
    the wrong way round with probability `noise`, and says yes where at least `threshold` of them look won.
    """

    by: Literal["always", "person", "oracle", "random", "disagreement", "lookahead", "statistics", "approver"] = "always"
    threshold: AtLeastZero = 0.5
    rule: Literal["share", "bound"] = "share"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    overclaim: AtLeastZero | None = None
    rate: Share | None = None
    rate_from: str | None = None
    ask: ArmAsk | None = None
    noise: Annotated[float, Field(ge=0, le=0.5)] | None = None

    def __post_init__(self) -> None:
        if (self.by == "statistics") != (self.ask is not None):
            raise ValueError("a gate by statistics needs `ask`, and only it takes it")
        if (self.by == "approver") != (self.noise is not None):
            raise ValueError("an approver needs `noise` (0 for none), and only an approver takes it")
        if self.by == "random" and (self.rate is None) == (self.rate_from is None):
            raise ValueError("a random gate needs rate or rate_from, and not both")
        if self.by != "random" and (self.rate is not None or self.rate_from is not None):
            raise ValueError("rate and rate_from are the random gate's")
        if self.by == "person" and self.threshold > 1:
            raise ValueError("a person's threshold is a win rate, at most 1")


@dataclass(frozen=True, config=_STRICT)
class ArmReward:
    """mode: how models become one score. over `members`: of an ensemble fitted to the same labels; over `rounds`: the
    models of all attempts so far (Wolf et al. 2505.18126). data: which labels a refit sees: those of the last
    collection, all, or as many as the last collection drawn from all.
    """

    mode: Combine = "last"
    over: Literal["members", "rounds"] = "members"
    members: Count = 5
    weight: AtLeastZero = 0.5
    data: Literal["last", "concatenated", "sampled"] = "concatenated"


@dataclass(frozen=True, config=_STRICT)
class ArmChoice:
    """Which of an attempt's step checkpoints is the candidate.

    last: the end of the segment. oracle: the one with the highest gold (a bound, not a method). labelled: at each
    checkpoint `labels` comparisons against the best so far; it becomes the best where it wins at least `threshold`,
    and after `patience` losses in a row the optimiser stops (its labels are charged). ladder: `rungs` evenly spaced
    checkpoints, `labels` comparisons of each against the start; the one with the highest share of wins, if that is at
    least `threshold`, otherwise the attempt is declined. fresh: the winner is compared with the start again with this
    many new labels, and the new share is what must reach the threshold: the best of several is overrated by the very
    labels that chose it. keep_last: the ladder's labels are taken, but the candidate is the last checkpoint and
    nothing is declined (the ladder's control).
    """

    by: Literal["last", "oracle", "labelled", "ladder"] = "last"
    labels: Whole = 0
    threshold: Share = 0.5
    patience: Count = 2
    rungs: Count = 4
    fresh: Whole = 0
    keep_last: bool = False

    def __post_init__(self) -> None:
        if self.by in ("labelled", "ladder") and self.labels == 0:
            raise ValueError(f"choosing by {self.by} needs labels above 0")


@dataclass(frozen=True, config=_STRICT)
class ArmBudget:
    """No attempt is begun that could go beyond; None is no bound. attempts: in all rounds together."""

    labels: Count | None = None
    updates: Count | None = None
    attempts: Count | None = None


@dataclass(frozen=True, config=_STRICT)
class ArmSwap:
    """A run in which parts know the truth, to tell whose fault a gap is (maths/attribution.py). labels `gold`: annotators
    without their biases; their random noise stays, which is the reward model's trouble. optimiser `exact`: the best
    policy for the reward within the distance that the segment is meant to have, instead of steps; `steps` ends there
    as well, so that all are of one class. The exact reward is score_by: human.
    """

    labels: Literal["human", "gold"] = "human"
    optimiser: Literal["steps", "exact"] = "steps"


@dataclass(frozen=True, config=_STRICT)
class Arm:
    """One method.

    start: where the next attempt begins: `candidate` is the last attempt's result, `approved` the last kept one (the
    same unless a gate declines), `base` the base policy, `interpolated` base + eta (candidate - base). travel: `full`
    makes up for distance given up by the start (from the base, round c goes c segments), `segment` always goes one.
    refresh: whether labels change the reward model. attempts: at most, in one round; exhausted: what then: `stop`,
    `keep` the last candidate all the same, `shrink` the segment to half and try as often again (four times, then
    stop), `back` to the checkpoint before (then stop at the base). one_round: a single round as long as all of the
    study's. kappa: share of a segment that is kept once it was looked at to its end. beta: KL penalty; reference: of
    that penalty. n: of best-of-n. labels_per_step: of `direct`. temperature: DPO's beta. segments: length of an
    attempt, in segments of the study. reseed: whether a further attempt of a round draws other optimiser noise.
    """

    name: str
    about: str = ""
    family: Literal["baseline", "rollback", "ablation", "bound"] = "baseline"
    start: Literal["candidate", "approved", "base", "interpolated"] = "approved"
    eta: Share = 0.5
    travel: Literal["full", "segment"] = "full"
    method: Method = "rl"
    score_by: Literal["reward_model", "outcome", "gold", "human"] = "reward_model"
    refresh: bool = True
    rounds: Count | None = None
    one_round: bool = False
    attempts: Count = 1
    exhausted: Literal["stop", "keep", "shrink", "back"] = "stop"
    segments: Positive = 1.0
    kappa: Annotated[float, Field(gt=0, le=1)] = 1.0
    beta: AtLeastZero = 0.0
    reference: Literal["start", "base"] = "start"
    n: Count = 16
    labels_per_step: Count = 3
    temperature: Positive = 0.3
    reseed: bool = True
    gate: ArmGate = ArmGate()
    labels: ArmLabels = ArmLabels()
    reward: ArmReward = ArmReward()
    choice: ArmChoice = ArmChoice()
    budget: ArmBudget = ArmBudget()
    swap: ArmSwap | None = None

    def __post_init__(self) -> None:
        if self.gate.by == "lookahead" and self.attempts < 2:
            raise ValueError("a lookahead gate needs attempts of 2 or more: the last one is kept")
        if self.gate.by == "disagreement" and self.reward.mode == "last":
            raise ValueError("a gate by disagreement needs an ensemble: set reward.mode to mean")
        if self.one_round and self.rounds not in (None, 1):
            raise ValueError("one_round and rounds contradict each other")
        if self.kappa < 1 and self.choice.by != "last":
            raise ValueError("kappa below 1 and a choice among checkpoints exclude each other")
        if self.score_by != "reward_model" and self.method in ("direct", "dpo"):
            raise ValueError(f"method {self.method} asks for no scores; leave score_by out")

    def settings(self) -> dict[str, Any]:
        """Plain values that determine what the arm does: its digest is taken of these (name and prose left out).

        None says that a key is not used, so that a new key leaves the digests of arms without it as they were.
        """
        return _used({k: v for k, v in asdict(self).items() if k not in ("name", "about", "family")})


def _used(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _used(v) if isinstance(v, dict) else v for k, v in tree.items() if v is not None}


@cache
def library() -> dict[str, Arm]:
    """The arms that come with the project, by name (arms.yaml)."""
    path = Path(__file__).with_name("arms.yaml")
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    arms: dict[str, Arm] = {}
    for name, tree in found.items():
        arms[name] = make_arm(name, tree, arms, "arms.yaml")
    return arms


def make_arm(name: str, tree: dict[str, Any], known: dict[str, Arm], place: str) -> Arm:
    """The arm `name` from its mapping of keys; `like: NAME` takes another arm's keys first, sections merged.

    Raises:
        ConfigError: an unknown arm or key (the nearest one is named), or a value that does not fit.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{place}: arm `{name}` must be a mapping of keys to values", remedy="write `like: NAME` at least")
    merged = dict(tree)
    like = merged.pop("like", None)
    if like is not None:
        parent = asdict(named(str(like), known, place))
        for key, value in merged.items():
            parent[key] = {**parent[key], **value} if isinstance(value, dict) and isinstance(parent.get(key), dict) else value
        merged = {"about": "", **parent}
    merged["name"] = name
    try:
        return Arm(**merged)
    except ValidationError as error:
        raise config_error(error, Arm, f"{place}: arm `{name}`") from None
    except TypeError as error:
        raise ConfigError(f"{place}: arm `{name}`: {error}") from None


def named(name: str, known: Mapping[str, Any], place: str, what: str = "arm") -> Any:
    """The known thing of that name; ConfigError with the nearest name where there is none."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    raise ConfigError(
        f"{place}: there is no {what} {name!r}",
        remedy=f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}",
    )


def config_error(error: ValidationError, model: Any, place: str) -> ConfigError:
    """Pydantic's first complaint about a dataclass `model` as an error of ours, unknown keys first."""
    found = error.errors(include_url=False, include_context=False)
    kinds = ("unexpected_keyword_argument", "extra_forbidden")
    first = next((e for e in found if e["type"] in kinds), found[0])
    location = [str(part) for part in first["loc"]]
    dotted = ".".join(location)
    if first["type"] in kinds:
        valid = _keys(model, location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        remedy = f"did you mean `{near[0]}`?" if near else f"valid keys: {', '.join(valid)}"
        return ConfigError(f"{place}: unknown key `{dotted}`", remedy=remedy)
    given = first.get("input")
    shown = f" (it is {repr(given)[:80]})" if isinstance(given, (str, int, float, bool)) else ""
    return ConfigError(f"{place}{f': `{dotted}`' if dotted else ''}: {first['msg'].removeprefix('Value error, ')}{shown}")


def _keys(model: Any, path: list[str]) -> list[str]:
    for part in path:
        hint = get_type_hints(model).get(part)
        model = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), model)
    return [f.name for f in fields(model)]
