"""A calculator that a policy may call while it answers: the worked example of tool use.

    prompt   1 2 + 3 0 ?
    policy   calc 1 2 + 3 0 =
    tool                       4 2
    policy                          answer 4 2 <eos>

A turn ends with `=` or the end token. The tool reads what stands after the last `calc` of the turn and answers with
the digits of the value, or with `error`; only what the policy itself wrote can call it. The end token ends the
episode, whose outcome is 1 if the number after the last `answer` is the value of the prompt, and else 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rlback.environments.arithmetic import BOUND, DIGITS, MAX_DEPTH, MAX_DIGITS, MAX_WORDS, NoValue, evaluate, spell
from rlback.environments.protocol import Reply
from rlback.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CALL, EQUALS, ANSWER, ERROR, ASK = "calc", "=", "answer", "error", "?"
#: Words that a vocabulary must have for a policy to use the calculator, each one token.
WORDS = (*DIGITS, "+", "-", "*", "(", ")", CALL, EQUALS, ANSWER, ERROR, ASK)


@dataclass(frozen=True)
class Sum:
    """What the calculator knows of an episode: the value asked for, calls so far (failed ones too), the answer."""

    asked: int
    calls: int = 0
    failed: int = 0
    answer: int | None = None
    ended: bool = False


@dataclass(frozen=True)
class Calculator:
    """`Judged` environment over a tokenizer that has each of `WORDS` as one token (`calculator` makes it)."""

    words: dict[str, int] = field(repr=False)
    start: int | None
    end: int
    max_turns: int = 4
    turn_tokens: int = 24
    name: str = "calculator"

    @property
    def stop(self) -> frozenset[int]:
        return frozenset((self.words[EQUALS], self.end))

    def begin(self, prompt: Sequence[int], seed: int) -> Sum:
        """Reads the question out of the prompt. Raises DataError where there is none."""
        words = self._read(prompt[1:] if prompt[0] == self.start else prompt)
        try:
            if not words or words[-1] != ASK:
                raise NoValue(f"it does not end with {ASK!r}")
            return Sum(evaluate(words[:-1]))
        except NoValue as problem:
            raise DataError(
                f"the prompt {' '.join(words)!r} asks the calculator nothing: {problem}",
                remedy=f"write prompts like `1 2 + 3 0 {ASK}`",
            ) from None

    def answer(self, state: Sum, turn: tuple[int, ...]) -> Reply[Sum]:
        """The value of a call, `error`, or the end."""
        words = self._read(turn)
        if turn[-1] == self.end:
            return Reply(replace(state, answer=_number(_after(words[:-1], ANSWER)), ended=True), done=True)
        value = _value(_after(words[:-1], CALL)) if words[-1] == EQUALS else None
        said = (ERROR,) if value is None else spell(value)
        after = replace(state, calls=state.calls + 1, failed=state.failed + (value is None))
        return Reply(after, tuple(self.words[word] for word in said))

    def outcome(self, state: Sum) -> float:
        """1 for the right number, 0 for another one, for none and for an episode that did not end."""
        return float(state.ended and state.answer == state.asked)

    def lineage(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "words": self.words,
            "start": self.start,
            "end": self.end,
            "max_turns": self.max_turns,
            "turn_tokens": self.turn_tokens,
            "caps": {"words": MAX_WORDS, "digits": MAX_DIGITS, "depth": MAX_DEPTH, "bound": BOUND},
        }

    def _read(self, ids: Sequence[int]) -> list[str]:
        table = {token: word for word, token in self.words.items()}
        return [table.get(token, f"<{token}>") for token in ids]


def calculator(tokenizer: PreTrainedTokenizerFast, *, max_turns: int = 4, turn_tokens: int = 24) -> Calculator:
    """A calculator for policies with this tokenizer. Raises ConfigError naming a word that it does not have."""
    vocabulary = tokenizer.get_vocab()
    missing = [word for word in WORDS if word not in vocabulary]
    if missing:
        raise ConfigError(
            f"the tokenizer has no token {missing[0]!r}, which the calculator needs",
            remedy=f"use a word-level vocabulary with {' '.join(WORDS)}",
        )
    words = {word: vocabulary[word] for word in WORDS}
    return Calculator(words, tokenizer.bos_token_id, tokenizer.eos_token_id, max_turns, turn_tokens)


def _after(words: Sequence[str], mark: str) -> Sequence[str]:
    """What follows the last `mark`; nothing where there is none."""
    return words[len(words) - list(reversed(words)).index(mark) :] if mark in words else ()


def _value(words: Sequence[str]) -> int | None:
    try:
        return evaluate(words)
    except NoValue:
        return None


def _number(words: Sequence[str]) -> int | None:
    """The number that the words are; a sum that is still to be done is none."""
    plain = all(word in DIGITS for word in words[words[:1] == ["-"] :])
    return _value(words) if plain else None
