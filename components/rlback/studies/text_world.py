"""What a text world is to the one learner of all of them (text.py): prompts, gold, and where base policies come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedTokenizerFast

from rlback.models.policy import Policy
from rlback.records import Completion
from rlback.studies.protocol import Beginning
from rlback.studies.text_settings import TextSettings

Split = Literal["train", "gate", "eval"]


class TextWorld(Protocol):
    """One world. Policies optimise on `train` prompts, people label on `gate` ones, `eval` ones are for measuring."""

    @property
    def name(self) -> str:
        """As in a study's file."""

    @property
    def shared(self) -> Path | None:
        """Where beginnings are kept for all processes."""

    @property
    def settings(self) -> TextSettings:
        """What every world has."""

    @property
    def device(self) -> torch.device:
        """Where its models are; scores and measurements leave it at once and are numbers on the CPU."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """See protocol.Learner."""

    def prompts(self, seed: int, n: int, split: Split) -> list[str]:
        """`n` prompts of one split; those of two splits never meet."""

    def prompt_text(self, tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
        """The prompt that was encoded to these ids."""

    def golds(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[float, ...]:
        """Gold of each completion, in the world's own unit. The same call gives the same numbers."""

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        """What a biased annotator likes too much."""

    def planted(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[bool, ...] | None:
        """Which completions lie in the world's fixed bad set; None where it has no such set."""

    def base_key(self, number: int) -> Any:
        """Plain values that determine base policy `number`."""

    def new_base(self, number: int, state: Path | None) -> Policy:
        """Makes it; `state` is where a training that was ended goes on."""

    def facts(self) -> dict[str, Any]:
        """See protocol.Learner."""

    def rehearsal(self) -> tuple[TextWorld, list[Beginning]]:
        """See protocol.Learner: a world as dear as this one with nothing trained, and what is still to be made."""


@dataclass(frozen=True)
class Drawn:
    """Completions of prompts, one after the other. logps: sums over tokens in nats, under the policy that sampled, None
    where that is not known."""

    world: TextWorld
    prompts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    completions: tuple[Completion, ...]
    logps: tuple[float, ...] | None = None

    @cached_property
    def gold(self) -> tuple[float, ...]:
        """(n,) as the world has it; asked for when it is needed, since it may take a large model."""
        return self.world.golds(self.prompts, self.completions)
