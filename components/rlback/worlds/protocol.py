"""What a controlled world offers to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rlback.worlds.visits import Example, Split


class World(Protocol):
    """A text world with a known gold reward. All randomness comes from the seeds given."""

    @property
    def name(self) -> str:
        """The name that `load_world` knows it by."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word token in the order of token ids, without special tokens."""

    @property
    def completion_limit(self) -> int:
        """The most words a completion may have; the end token comes after them."""

    def examples(self, seed: int, n: int) -> list[Example]:
        """`n` examples of the corpus that the base policy is trained on."""

    def prompts(self, seed: int, n: int, split: Split) -> list[str]:
        """`n` prompts of one split; the prompts of two splits never meet."""

    def gold(self, prompt: str, completion: str, finished: bool) -> float:
        """The gold reward of one completion."""

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        """How much a completion holds of what a biased annotator likes too much."""

    def counts(self, prompt: str, completion: str, finished: bool) -> Mapping[str, float]:
        """The features that gold is made of, by name, for metrics and reports."""

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        """One short plain sentence on what is right and wrong in a completion."""

    def write_data(self, directory: Path, seed: int = 0) -> None:
        """Write the corpus and the prompts of every split, byte for byte the same for the same seed."""
