"""What a completion is worth to the optimiser: a reward model, an annotator's verdicts, or an automated outcome.

A scorer gives one number per completion; the loops know nothing else of it, so a method does not change with it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlback.errors import ConfigError, StageError, TrainingDiverged
from rlback.records import digest_of
from rlback.training.batches import Tokens

#: (prompt ids, completion ids of the two sides) -> the verdict of whoever compares them
Compare = Callable[[Tokens, Tokens, Tokens], Literal["a", "b", "tie", "skip"]]


class Scorer(Protocol):
    """Scores for completions, those of one prompt side by side, in the order given."""

    #: Whether equal scores for a whole batch of different completions mean that the scorer is broken.
    graded: bool

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """(b,) float32, without gradient."""

    def identity(self) -> str:
        """A digest of everything the scores depend on."""


@dataclass(frozen=True)
class AnnotatorScorer:
    """Direct RL from labels, without a reward model: +1 for the preferred of two completions, -1 for the other.

    The completions of a prompt are compared in pairs, the first with the second, and so on: give each prompt an even
    number. A tie or a skip is 0 for both. `name` says who compares, with parameters, since scores depend on it.
    """

    compare: Compare
    name: str
    graded: bool = False

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """Asks for one verdict a pair. ConfigError where two neighbours are not of one prompt."""
        scores = torch.zeros(len(prompts))
        for i in range(0, len(prompts), 2):
            if i + 1 >= len(prompts) or tuple(prompts[i]) != tuple(prompts[i + 1]):
                raise ConfigError(
                    "direct RL compares the completions of a prompt in pairs, so their number must be even",
                    remedy="set samples_per_prompt to 2 (or another even number)",
                )
            verdict = self.compare(prompts[i], completions[i], completions[i + 1])
            sign = {"a": 1.0, "b": -1.0}.get(verdict, 0.0)
            scores[i], scores[i + 1] = sign, -sign
        return scores

    def identity(self) -> str:
        """Who compares."""
        return digest_of(["annotator", self.name])


@dataclass(frozen=True)
class FunctionScorer:
    """An automated outcome reward: a Python function of the texts of a prompt and a completion."""

    function: Callable[[str, str], float]
    name: str
    decode: Callable[[Tokens], str]
    graded: bool = False

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """Calls the function on each completion. TrainingDiverged for a value that is not finite."""
        values = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                values.append(float(self.function(self.decode(prompt), self.decode(completion))))
            except (Exception, SystemExit) as error:  # whatever the user's own function raises
                raise StageError(
                    f"the outcome reward {self.name} failed on completion {row} of the batch: "
                    f"{type(error).__name__}: {str(error)[:300]}",
                    remedy="make it return a number for every text",
                ) from error
        return _finite(values, self.name)

    def identity(self) -> str:
        """The function's name and version, as given."""
        return digest_of(["function", self.name])


@dataclass(frozen=True)
class CommandScorer:
    """An automated outcome reward: a command that reads a JSON line {prompt, completion} each and prints a number each.

    Started once a batch, without a shell. StageError when it fails, prints another number of lines, or takes longer
    than `timeout_s`.
    """

    command: tuple[str, ...]
    decode: Callable[[Tokens], str]
    timeout_s: float = 300.0
    graded: bool = False

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """Runs the command on the whole batch."""
        rows = [
            json.dumps({"prompt": self.decode(p), "completion": self.decode(c)})
            for p, c in zip(prompts, completions, strict=True)
        ]
        shown = " ".join(self.command)
        try:
            done = subprocess.run(
                self.command, input="\n".join(rows) + "\n", capture_output=True, text=True, errors="replace",
                timeout=self.timeout_s,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise StageError(
                f"the outcome reward `{shown}` could not be run: {error}", remedy="try it by hand on one JSON line"
            ) from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
            printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last[:300])
            raise StageError(
                f"the outcome reward `{shown}` exits {done.returncode}: {printable}", remedy="try it by hand on one JSON line"
            )
        lines = done.stdout.split()
        if len(lines) != len(rows):
            raise StageError(
                f"the outcome reward `{shown}` printed {len(lines)} numbers for {len(rows)} completions",
                remedy="print exactly one number per input line",
            )
        try:
            values = [float(line) for line in lines]
        except ValueError as error:
            raise StageError(f"the outcome reward `{shown}` printed no number: {error}") from None
        return _finite(values, shown)

    def identity(self) -> str:
        """The command line."""
        return digest_of(["command", list(self.command)])


def _finite(values: Sequence[float], name: str) -> Tensor:
    scores = torch.tensor(values, dtype=torch.float64).to(torch.float32)
    for row in (~scores.isfinite()).nonzero()[:, 0].tolist():
        raise TrainingDiverged(
            f"the outcome reward {name} gave {values[row]} for completion {row} of the batch",
            remedy="make it return finite numbers that fit single precision",
        )
    return scores
