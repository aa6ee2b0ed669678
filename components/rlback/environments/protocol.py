"""What an environment is: something that reads a policy's turn and writes the tokens that follow it.

An environment speaks token ids and nothing else, so a calculator, a person's stand-in and a grid world look the same
to a training loop. A turn is what the policy writes until a stop token or `turn_tokens`; then the environment
answers, and the policy goes on after its answer. Both stand in one completion; a mask says who wrote which token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

S = TypeVar("S")


@dataclass(frozen=True)
class Reply(Generic[S]):
    """What an environment says to a turn.

    state: what it has to know from now on. tokens: what follows the turn, possibly nothing. done: the episode ends
    after these tokens.
    """

    state: S
    tokens: tuple[int, ...] = ()
    done: bool = False


class Environment(Protocol[S]):
    """Answers between turns. States are plain immutable values and answers depend on nothing but the arguments.

    So an episode is reproducible from its prompt, its seed and the policy's tokens (`episodes.replay`). Turns come
    from a policy that may have learnt to write anything: every sequence of ids is answered, none raises.
    """

    @property
    def name(self) -> str:
        """A name for records and messages."""

    @property
    def max_turns(self) -> int:
        """After so many turns without an end the episode is cut."""

    @property
    def turn_tokens(self) -> int:
        """The most tokens of one turn; a turn is over after them, stop token or not."""

    @property
    def stop(self) -> frozenset[int]:
        """Tokens that end a turn when the policy writes them; part of the turn."""

    def begin(self, prompt: Sequence[int], seed: int) -> S:
        """The state before the first turn. An environment without chance of its own leaves `seed` alone."""

    def answer(self, state: S, turn: tuple[int, ...]) -> Reply[S]:
        """What follows `turn`."""

    def lineage(self) -> dict[str, Any]:
        """What has to be recorded to have the same environment again, as plain JSON values."""


class Judged(Environment[S], Protocol[S]):
    """An environment that knows whether an episode went well: an automated outcome reward."""

    def outcome(self, state: S) -> float:
        """The reward of an episode that ended, or was cut, in this state."""
