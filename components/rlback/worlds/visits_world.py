"""The world "visit notes -> review" as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlback.worlds import visits, visits_gold

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class VisitsWorld:
    """`World` over `visits` (grammar, prompts, corpus) and `visits_gold` (features, gold)."""

    name: str = "visits"
    vocabulary: tuple[str, ...] = visits.VOCABULARY
    prompt_limit: int = visits.PROMPT_WORDS
    completion_limit: int = visits.COMPLETION_LIMIT

    def examples(self, seed: int, n: int) -> list[visits.Example]:
        return visits.examples(seed, n)

    def prompts(self, seed: int, n: int, split: visits.Split) -> list[str]:
        return visits.prompts(seed, n, split)

    def gold(self, prompt: str, completion: str, finished: bool) -> float:
        return visits_gold.gold(prompt, completion, finished)

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        return visits_gold.hype(prompt, completion, finished)

    def counts(self, prompt: str, completion: str, finished: bool) -> Mapping[str, float]:
        found = vars(visits_gold.features(prompt, completion, finished))
        return {key: float(count) for key, count in found.items()}

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        return visits_gold.describe(visits_gold.features(prompt, completion, finished))

    def render(self, prompt: str, completion: str) -> str:
        return completion

    def environment(self, tokenizer: PreTrainedTokenizerFast) -> None:
        return None

    def write_data(self, directory: Path, seed: int = 0) -> None:
        visits.write_data(directory, seed)

    def read_corpus(self, directory: Path) -> list[visits.Example]:
        return visits.read_examples(directory / "corpus.jsonl")


VISITS = VisitsWorld()
