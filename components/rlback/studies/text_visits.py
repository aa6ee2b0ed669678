"""The text world "visits" of studies: the controlled world of visit notes and reviews, whose gold is a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from rlback.models.policy import Policy, new_policy
from rlback.models.tokenizers import decode, encode_completion, encode_prompt, word_level
from rlback.records import Completion, seed_of
from rlback.studies.protocol import Beginning, Request
from rlback.studies.rehearsal import seconds_of
from rlback.studies.shared import known_facts
from rlback.studies.text import TextLearner
from rlback.studies.text_base import base_name
from rlback.studies.text_settings import VisitsSettings, checked
from rlback.studies.text_world import Split, TextWorld
from rlback.training.supervised import train_base
from rlback.worlds.visits_world import VISITS
from rlback.worlds.visits_writers import planted, written


def make_learner(request: Request) -> TextLearner:
    """See protocol.Make."""
    settings = checked(VisitsSettings, request.world, f"{request.place}: world")
    return TextLearner.of(Visits(settings, request.shared), request)


@dataclass(frozen=True)
class Visits:
    """See text_world.TextWorld."""

    settings: VisitsSettings
    shared: Path | None
    name: str = "visits"
    device = torch.device("cpu")

    @property
    def inputs(self) -> Mapping[str, str]:
        return {}

    def prompts(self, seed: int, n: int, split: Split) -> list[str]:
        return VISITS.prompts(seed, n, split)

    def prompt_text(self, tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
        return decode(tokenizer, ids)

    def golds(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[float, ...]:
        return tuple(VISITS.gold(p, c.text, c.finished) for p, c in zip(prompts, completions, strict=True))

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        return VISITS.hype(prompt, completion, finished)

    def planted(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[bool, ...]:
        return tuple(planted(p, c.text) for p, c in zip(prompts, completions, strict=True))

    def base_key(self, number: int) -> Any:
        own = self.settings
        return [number, asdict(own.shape), asdict(own.training), own.dishonest, own.terse]

    def new_base(self, number: int, state: Path | None) -> Policy:
        training = self.settings.training
        policy = new_policy(self.settings.shape, word_level(VISITS.vocabulary), seed_of("text base weights", number))
        tokenizer = policy.tokenizer
        count = training.steps * training.batch
        own = self.settings
        texts = written(seed_of("text corpus", number), max(1, min(count, 20_000)), dishonest=own.dishonest, terse=own.terse)
        examples = [(encode_prompt(tokenizer, e.prompt), encode_completion(tokenizer, e.completion)) for e in texts]
        train_base(policy, examples, training, seed=seed_of("text base training", number), state_dir=state)
        return policy

    def facts(self) -> dict[str, Any]:
        return {}

    def rehearsal(self) -> tuple[TextWorld, list[Beginning]]:
        def trained(steps: int) -> Visits:
            training = replace(self.settings.training, steps=steps)
            return replace(self, settings=replace(self.settings, training=training), shared=None)

        steps = self.settings.training.steps
        todo = [n for n in range(self.settings.bases) if known_facts(self.shared, base_name(self, n)) is None]
        seconds = seconds_of(steps, lambda n: trained(n).new_base(0, None)) if todo else 0.0
        return trained(0), [Beginning(f"base policy {n}, {steps} steps", seconds) for n in todo]
