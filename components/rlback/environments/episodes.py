"""Episodes: completions that a policy and an environment write in turns, token by token in one batch.

All rows grow in step in the ordinary sampler, whoever writes: a row that waits for its environment's tokens takes
one of them per step, so no conversation is read twice and rows need not be in the same turn. An environment's token
costs a decoding step as the policy's does; answers are expected to be short.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rlback.environments.protocol import Environment, Judged, Reply
from rlback.errors import ConfigError, DataError, RlbackError
from rlback.models.policy import Policy, positions_of
from rlback.models.sampler import Placed, Samples, check_request, grow, require_prompts_fit
from rlback.records import digest_of, seed_of
from rlback.settings import Precision

S = TypeVar("S")


@dataclass
class Episodes(Samples):
    """Samples whose mask leaves out what the environment wrote.

    states: the environment's state after the last answered turn of each row. turns: answered turns of each row.
    `finished` says that the environment ended the episode and all it said stands there; a row that ran out of tokens,
    positions or turns did not finish.
    """

    states: list[Any]
    turns: list[int]


def sample_episodes(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    environment: Environment[Any],
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    samples_per_prompt: int = 1,
    first_row: int = 0,
    batch_size: int = 256,
    precision: Precision = "fp32",
) -> Episodes:
    """`samples_per_prompt` episodes for each prompt, rows grouped by prompt, in the order given.

    A completion holds at most `max_new_tokens` tokens, the environment's included, and together with its prompt at
    most the model's positions. A row's random numbers, and the seed that its environment gets, come from `seed` and the
    row's number alone (`first_row` on, see `models.sampler.sample`): neither what the other rows hold nor `batch_size`
    changes an episode, up to rounding of the logits. With the environment fixed (functools.partial) this takes the
    place of `sample`, and with one that ends every episode at the end token it draws the very same. `precision` as there.

    Raises ConfigError for a temperature or count that is not positive, a precision that is not settled and an environment
    that breaks its protocol or answers with an id that the model does not have, DataError for an empty prompt or one that
    leaves no room.
    """
    check_request(
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples_per_prompt=samples_per_prompt,
        batch_size=batch_size,
    )
    require_prompts_fit(policy.model, prompts, 1)
    limit = positions_of(policy.model)
    rows = [tuple(prompt) for prompt in prompts for _ in range(samples_per_prompt)]
    draw = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(first_row + len(rows), max_new_tokens, generator=draw)[first_row:]
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    talks = [
        _Episode(environment, row, seed_of(seed, "environment", number), vocabulary, number)
        for number, row in enumerate(rows, start=first_row)
    ]
    grown = grow(
        policy,
        rows,
        uniforms,
        room=[max_new_tokens if limit is None else min(max_new_tokens, limit - len(row)) for row in rows],
        temperature=temperature,
        batch_size=batch_size,
        place=lambda row, token: talks[row].place(token),
        precision=precision,
    )
    return Episodes(**vars(grown), states=[talk.state for talk in talks], turns=[talk.turns for talk in talks])


class _Episode(Generic[S]):
    """One row under way: the state, the turn so far and the environment's tokens that are still to come."""

    def __init__(
        self, environment: Environment[S], prompt: Sequence[int], seed: int, vocabulary: int | None, row: int | None
    ) -> None:
        self.environment, self.vocabulary, self.row = environment, vocabulary, row
        self.state: S = self._ask("begin", tuple(prompt), seed)
        self.turns = 0
        self._turn: list[int] = []
        self._coming: deque[int] = deque()
        self._last, self._done = False, False  # no turn comes after what is coming; by the environment's word

    def place(self, token: int) -> Placed:
        """The next token of the row, `token` where it is the policy's turn."""
        if self._coming:
            written = self._coming.popleft()
            over = self._last and not self._coming
            return Placed(written, False, over, over and self._done)
        self._turn.append(token)
        if token in self.environment.stop or len(self._turn) >= self.environment.turn_tokens:
            self._answer()
        over = self._last and not self._coming
        return Placed(token, True, over, over and self._done)

    def _answer(self) -> None:
        reply = self._ask("answer", self.state, tuple(self._turn))
        if not isinstance(reply, Reply):
            raise self._broken(f"answers with a {type(reply).__name__}", "a Reply is due")
        if not isinstance(reply.tokens, tuple | list):
            raise self._broken(f"answers with a {type(reply.tokens).__name__} of tokens", "a tuple is due")
        for token in reply.tokens:
            if not isinstance(token, Integral) or isinstance(token, bool):
                raise self._broken(f"answers with token {repr(token)[:40]}", "a token is an integer")
            if self.vocabulary is not None and not 0 <= token < self.vocabulary:
                raise self._broken(
                    f"answers with token {token}", f"the policy has {self.vocabulary} tokens",
                    remedy="build the environment from the policy's own tokenizer",
                )  # fmt: skip
        self.state, self._turn, self.turns = reply.state, [], self.turns + 1
        self._coming.extend(reply.tokens)
        self._done = bool(reply.done)
        self._last = self._done or self.turns >= self.environment.max_turns

    def _ask(self, method: str, *told: Any) -> Any:
        """What the environment says. ConfigError for whatever it raises that is no error of ours."""
        try:
            return getattr(self.environment, method)(*told)
        except RlbackError:
            raise
        except Exception as error:
            raised = f"{type(error).__name__}: {str(error)[:300]}"
            raise self._broken(f"fails in `{method}`", raised) from error

    def _broken(self, what: str, why: str, remedy: str = "see rlback/environments/protocol.py for what is due") -> ConfigError:
        row = "" if self.row is None else f" (row {self.row})"
        return ConfigError(f"environment {self.environment.name} {what}; {why}{row}", remedy=remedy)


@dataclass(frozen=True)
class Replayed(Generic[S]):
    """What a stored episode says: the state it ends in, who wrote each token (True: the policy), whether it ended."""

    state: S
    mask: tuple[bool, ...]
    finished: bool


def replay(
    environment: Environment[S], prompt: Sequence[int], completion: Sequence[int], seed: int = 0, row: int | None = None
) -> Replayed[S]:
    """Goes through a completion token by token, with the environment answering again.

    `seed` matters only to an environment that uses the one it is given; `row` is for messages. Raises DataError where the
    environment says something else than stands there, or the completion goes on after its end: it is no episode of this
    environment. Raises ConfigError for an environment that breaks its protocol.
    """
    talk = _Episode(environment, prompt, seed, None, row)
    mask: list[bool] = []
    over = finished = False
    for place, token in enumerate(completion):
        placed = None if over else talk.place(token)
        if placed is None or placed.token != token:
            said = "has ended" if placed is None else f"answers {placed.token}"
            raise DataError(
                f"token {place} of the completion is {token} where environment {environment.name} {said}",
                remedy="replay it with the environment and the seed that it was sampled with",
            )
        mask.append(placed.chosen)
        over, finished = placed.over, placed.finished
    return Replayed(talk.state, tuple(mask), finished)


def own_tokens(
    environment: Environment[Any] | None, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Tensor:
    """(b, t) bool, on the CPU: the tokens that the policy chose, by replay; without an environment all of a completion.

    For log-probabilities of stored completions: what an environment wrote is none of the policy's doing.
    """
    width = max(map(len, completions), default=0)
    own = torch.zeros(len(completions), width, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        mask = True if environment is None else torch.tensor(replay(environment, prompt, completion, row=row).mask)
        own[row, : len(completion)] = mask
    return own


@dataclass(frozen=True)
class OutcomeScorer:
    """Scores completions by the outcome reward of an environment without chance, by replaying them."""

    environment: Judged[Any]
    graded: bool = False

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        """(b,) float32 outcome of each episode. Raises DataError for a completion that is no episode."""
        rows = enumerate(zip(prompts, completions, strict=True))
        ends = [replay(self.environment, prompt, completion, row=row).state for row, (prompt, completion) in rows]
        return torch.tensor([self.environment.outcome(state) for state in ends], dtype=torch.float32)

    def identity(self) -> str:
        """A digest of the environment's lineage."""
        return digest_of(["outcome", self.environment.lineage()])
