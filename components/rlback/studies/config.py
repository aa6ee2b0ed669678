"""A study's file: world, settings, arms, seeds, and what all arms are given alike."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checked

from rlback.errors import ConfigError
from rlback.records import digest_of
from rlback.studies.arms import Arm, Count, Positive, Share, Whole, config_error, library, make_arm, named
from rlback.studies.machine import Plan, unsupported
from rlback.studies.protocol import LEARNERS, Learner, Make, Request
from rlback.studies.revision import gate_revision

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]


@checked(frozen=True, config=_STRICT)
class Seeds:
    """Seeds first, first + 1, ... ; a world's problem and all randomness of a run come from its seed."""

    first: Whole
    count: Count


@checked(frozen=True, config=_STRICT)
class PlanKeys:
    """See machine.Plan."""

    rounds: Count
    segment_steps: Count
    segment_length: Positive
    every: Count
    initial: Count
    inside: Whole
    cross: Whole
    points: bool = True


@checked(frozen=True, config=_STRICT)
class SettingKeys:
    """One setting: keys of the world, annotator, optimiser and plan over the study's own. arms: the study's arms that
    are run in it, None for all."""

    about: str = ""
    world: dict[str, Any] = field(default_factory=dict)
    annotator: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    arms: tuple[Name, ...] | None = None


@checked(frozen=True, config=_STRICT)
class AnalysisKeys:
    """What the tables compare. targets: gold as shares of what the gold arm reaches (without one: of the highest kept
    gold of the references). references: arms whose cost is the tax's denominator. ceiling: of MX_sign for the
    iso-exposure tax, None for the median over the references. draws: of bootstraps.
    """

    primary: str = "rollback-until-approved"
    references: tuple[str, ...] = ("take-last", "from-base", "vanilla", "vanilla-early-stop")
    targets: tuple[Share, ...] = (0.25, 0.5, 0.75, 0.9)
    ceiling: Share | None = None
    draws: Count = 1000


@checked(frozen=True, config=_STRICT)
class StudyKeys:
    """The file's top level. workers: processes where the command line names no number; None for one a core."""

    name: Name
    seeds: Seeds
    plan: PlanKeys
    settings: dict[Name, SettingKeys]
    arms: Any
    world: Name = "bandit"
    about: str = ""
    chunk: Count = 20
    workers: Count | None = None
    world_settings: dict[str, Any] = field(default_factory=dict)
    annotator: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    analysis: AnalysisKeys = AnalysisKeys()


@dataclass(frozen=True)
class Setting:
    """A setting with the study's own keys filled in. inputs: see protocol.Learner."""

    name: str
    about: str
    world: dict[str, Any]
    annotator: dict[str, Any]
    optimiser: dict[str, Any]
    plan: Plan
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A checked study."""

    keys: StudyKeys
    settings: dict[str, Setting]
    arms: dict[str, Arm]
    place: str

    @property
    def name(self) -> str:
        return self.keys.name

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.keys.seeds.first, self.keys.seeds.first + self.keys.seeds.count))

    def arms_in(self, setting: str) -> list[Arm]:
        """Arms that are run in a setting, in the study's order."""
        only = self.keys.settings[setting].arms
        return [arm for arm in self.arms.values() if only is None or arm.name in only]

    def with_seeds(self, count: int) -> Study:
        """The same with another number of seeds."""
        return replace(self, keys=replace(self.keys, seeds=Seeds(self.keys.seeds.first, count)))

    def learner(self, setting: str, seeds: tuple[int, ...], shared: Path | None = None) -> Learner:
        """The world of a setting with these seeds."""
        chosen = self.settings[setting]
        place = f"{self.place}: setting `{setting}`"
        return make(self.keys.world)(
            Request(chosen.world, chosen.annotator, chosen.optimiser, seeds, shared, place, {"plan": asdict(chosen.plan)})
        )

    def digest(self, setting: str, arm: str) -> str:
        """Of everything that determines a run but its seed, 16 hex digits. A gate that takes another arm's rate is
        determined by that arm as well."""
        chosen, which = self.settings[setting], self.arms[arm]
        other = which.gate.rate_from
        gate = gate_revision(which.gate.by)
        return digest_of({
            **({"gate": gate} if gate else {}),
            "world": self.keys.world, "settings": {**chosen.world, **chosen.inputs}, "annotator": chosen.annotator,
            "optimiser": chosen.optimiser, "plan": asdict(chosen.plan), "arm": which.settings(),
            "rate_from": [self.digest(setting, other), self.keys.seeds.first, self.keys.seeds.count] if other else None,
        })[:16]  # fmt: skip


def make(world: str) -> Make:
    """What makes the learner of a world."""
    module, _, function = LEARNERS[world].partition(":")
    found: Make = getattr(importlib.import_module(module), function)
    return found


def check_study(tree: dict[str, Any], place: str) -> Study:
    """Builds a study from plain values; `place` is what errors name.

    Raises:
        ConfigError: a key, value, arm or world is wrong or does not fit.
    """
    try:
        keys = StudyKeys(**tree)
    except ValidationError as error:
        raise config_error(error, StudyKeys, place) from None
    except TypeError as error:
        raise ConfigError(f"{place}: {' '.join(str(error).split())[:200]}") from None
    named(keys.world, dict.fromkeys(LEARNERS), place, "world")
    arms = _arms(keys.arms, place)
    settings = {name: _setting(keys, name, place) for name in keys.settings}
    if not settings or not arms:
        raise ConfigError(f"{place}: a study needs at least one setting and one arm")
    study = Study(keys, settings, arms, place)
    for name in settings:
        for only in keys.settings[name].arms or ():
            named(only, arms, f"{place}: setting `{name}`: arms")
        here, learner = study.arms_in(name), study.learner(name, study.seeds[:1])
        settings[name] = replace(settings[name], inputs=learner.inputs)
        for arm in here:
            if arm.gate.rate_from is not None:
                named(arm.gate.rate_from, {a.name: a for a in here}, f"{place}: setting `{name}`, arm `{arm.name}`: rate_from")
            lacks = unsupported(learner, arm)
            if lacks:
                raise ConfigError(f"{place}: setting `{name}`, arm `{arm.name}`: {lacks}", remedy="leave the arm out")
    return study


def _arms(given: Any, place: str) -> dict[str, Arm]:
    """Arms named from the library, or made here: a list of names and `{name: keys}` mappings, or one mapping."""
    known = dict(library())
    entries: list[tuple[str, dict[str, Any] | None]] = []
    if given == "all":
        return known
    for item in [given] if isinstance(given, dict) else given if isinstance(given, list) else [None]:
        if isinstance(item, str):
            entries.append((item, None))
        elif isinstance(item, dict):
            entries += [(str(name), tree) for name, tree in item.items()]
        else:
            raise ConfigError(f"{place}: arms must be `all`, a list of names, or a mapping of names to keys")
    found: dict[str, Arm] = {}
    for name, tree in entries:
        if name in found:
            raise ConfigError(f"{place}: arm `{name}` is there twice", remedy="give one of them another name")
        found[name] = known[name] = named(name, known, place) if tree is None else make_arm(name, tree, known, place)
    return found


def _setting(keys: StudyKeys, name: str, place: str) -> Setting:
    own = keys.settings[name]
    where = f"{place}: setting `{name}`: plan"
    try:
        plan = PlanKeys(**{**asdict(keys.plan), **own.plan})
    except ValidationError as error:
        raise config_error(error, PlanKeys, where) from None
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Setting(
        name, own.about, {**keys.world_settings, **own.world}, {**keys.annotator, **own.annotator},
        {**keys.optimiser, **own.optimiser}, Plan(**asdict(plan)),
    )  # fmt: skip
