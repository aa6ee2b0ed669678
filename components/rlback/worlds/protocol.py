"""What a controlled world offers to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlback.worlds.visits import Example, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rlback.environments.protocol import Environment


class World(Protocol):
    """A world with a known gold reward. What happens in it is written in words, whether or not they are a language.

    All randomness comes from the seeds given.
    """

    @property
    def name(self) -> str:
        """The name that `load_world` knows it by."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word token in the order of token ids, without special tokens."""

    @property
    def prompt_limit(self) -> int:
        """The most words a prompt has; the start token comes before them."""

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

    def render(self, prompt: str, completion: str) -> str:
        """A completion as whoever labels it is shown it."""

    def environment(self, tokenizer: PreTrainedTokenizerFast) -> Environment[Any] | None:
        """What answers the policy between its turns, or None where a completion is the policy's alone."""

    def write_data(self, directory: Path, seed: int = 0) -> None:
        """Write the corpus and the prompts of every split, byte for byte the same for the same seed."""

    def read_corpus(self, directory: Path) -> list[Example]:
        """The corpus that `write_data` wrote. Raises DataError naming the file and line of whatever is wrong."""
