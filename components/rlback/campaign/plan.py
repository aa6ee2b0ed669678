"""What a campaign does next: a pure function of what is recorded.

    round 0   data -> base -> [sample -> label] -> snapshot -> fit_reward
    round r   optimise -> [sample -> label] -> evaluate -> decide -> settle -> snapshot -> fit_reward
                          ^------- more labels: attempt + 1 ------/
                                      ^-- superseded -----/  (labels went into quarantine, or came out)

Stages in brackets fall away where a setting leaves them nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlback.config import CampaignConfig

#: The stages of round 0 and of every later round, with those that may fall away.
STAGE_ORDER = (
    ("data", "base", "sample", "label", "snapshot", "fit_reward"),
    ("optimise", "sample", "label", "evaluate", "decide", "settle", "snapshot", "fit_reward"),
)

#: (round, stage, attempt) -> recorded output
Recorded = Mapping[tuple[int, str, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Step:
    """One stage of one round; `attempt` counts gates for the same candidate."""

    round: int
    stage: str
    attempt: int = 1

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.round, self.stage, self.attempt)


@dataclass(frozen=True)
class Finished:
    """The campaign has nothing left to do."""

    reason: str


def next_step(config: CampaignConfig, recorded: Recorded) -> Step | Finished:
    """The first stage that is due and not recorded, or why there is none."""
    for step in _due(config, recorded):
        if isinstance(step, Finished) or step.key not in recorded:
            return step
    raise AssertionError("a plan ends with Finished")


def stages_of_round(config: CampaignConfig, round_: int) -> list[str]:
    """The stages a round passes when no more labels are asked for, in order."""
    if round_ == 0:
        labelled = ["sample", "label"] if config.labels.initial else []
        return ["data", "base", *labelled, "snapshot", *(["fit_reward"] if config.fits_reward_models else [])]
    labelled = ["sample", "label"] if _labels_a_round(config) else []
    after = ["snapshot"] if labelled else []
    if config.fits_reward_models and config.refresh and round_ < config.rounds:
        after.append("fit_reward")
    return ["optimise", *labelled, "evaluate", "decide", "settle", *after]


def attempts(recorded: Recorded, round_: int) -> int:
    """How many gates a round has come to so far (at least 1).

    Another one follows a call for more labels, and a gate whose labels changed before it was decided.
    """
    attempt = 1
    while _verdict(recorded, round_, attempt) in ("more-labels", "superseded"):
        attempt += 1
    return attempt


def has_batch(recorded: Recorded, round_: int, attempt: int) -> bool:
    """Whether an attempt has a batch of its own; after a superseded gate the labels there are are looked at anew."""
    return attempt == 1 or _verdict(recorded, round_, attempt - 1) == "more-labels"


def newest_batch(recorded: Recorded, round_: int) -> int:
    """The last attempt of a round that has a batch of its own."""
    return max(attempt for attempt in range(1, attempts(recorded, round_) + 1) if has_batch(recorded, round_, attempt))


def _verdict(recorded: Recorded, round_: int, attempt: int) -> Any:
    return recorded.get((round_, "decide", attempt), {}).get("verdict")


def _labels_a_round(config: CampaignConfig) -> int:
    return config.labels.inside + config.labels.cross


def _due(config: CampaignConfig, recorded: Recorded) -> Iterator[Step | Finished]:
    for stage in stages_of_round(config, 0):
        yield Step(0, stage)
    approved = 0
    for round_ in range(1, config.rounds + 1):
        labelled = _labels_a_round(config) > 0
        yield Step(round_, "optimise")
        diverged = "diverged" in recorded.get((round_, "optimise", 1), {})
        if not diverged:
            for attempt in range(1, attempts(recorded, round_) + 1):
                if labelled and has_batch(recorded, round_, attempt):
                    yield Step(round_, "sample", attempt)
                    yield Step(round_, "label", attempt)
                yield Step(round_, "evaluate", attempt)
                yield Step(round_, "decide", attempt)
        yield Step(round_, "settle")
        if labelled and not diverged:
            yield Step(round_, "snapshot")
        approved += recorded.get((round_, "settle", 1), {}).get("decision") == "approved"
        if config.stop_after_approvals and approved >= config.stop_after_approvals:
            yield Finished(f"{approved} candidate{'s' * (approved > 1)} approved, as many as were asked for")
        if config.fits_reward_models and config.refresh and round_ < config.rounds and labelled and not diverged:
            yield Step(round_, "fit_reward")
    yield Finished(f"all {config.rounds} rounds are done")
