"""What a completion is worth to the optimiser: a reward model, an annotator's verdicts, or an automated outcome.

A scorer gives one number per completion; the loops know nothing else of it, so a method does not change with it.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
import time
import traceback
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlback.errors import ConfigError, StageError, TrainingDiverged
from rlback.records import digest_of
from rlback.training.batches import Tokens

#: (prompt ids, completion ids of the two sides) -> the verdict of whoever compares them
Compare = Callable[[Tokens, Tokens, Tokens], Literal["a", "b", "tie", "skip"]]

#: What a user's own code may raise without being at fault: somebody ended the run, or a stage ran out of its time.
ENDS_THE_RUN = (KeyboardInterrupt, CancelledError)
#: How much of what a user's own code said is quoted, in characters.
_QUOTED = 300
#: What a command may print: so many bytes a completion, and so many beside.
_ROW_BYTES, _SPARE_BYTES = 1000, 2**16
#: How much of a command's standard error is kept, of its end.
_STDERR_BYTES = 2**16
#: Seconds that what a command has started may go on writing when the command itself has ended.
_GRACE_S = 1.0
#: Seconds between two looks at whether a command has ended.
_LOOK_S = 0.05
_READ_BYTES = 2**16


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
            except ENDS_THE_RUN:
                raise
            except BaseException as error:  # whatever the user's own function raises
                raise StageError(
                    f"the outcome reward {self.name} failed on completion {row} of the batch: {raised(error)}",
                    remedy="make it return a number for every text",
                ) from None  # who looks for a full disk reads the texts of all that is behind an error, and these may fail
        return _finite(values, self.name)

    def identity(self) -> str:
        """The function's name and version, as given."""
        return digest_of(["function", self.name])


@dataclass(frozen=True)
class CommandScorer:
    """An automated outcome reward: a command that reads a JSON line {prompt, completion} each and prints a number each.

    Started once a batch, without a shell, in `directory` (None: where this process is) and in a session of its own, of
    which nothing is left when the numbers are there or an error is raised. StageError when it fails, prints anything but
    a number a line and a line a completion, or takes longer than `timeout_s`.
    """

    command: tuple[str, ...]
    decode: Callable[[Tokens], str]
    timeout_s: float = 300.0
    graded: bool = False
    directory: Path | None = None

    def score(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
        """Runs the command on the whole batch."""
        rows = [
            json.dumps({"prompt": self.decode(p), "completion": self.decode(c)})
            for p, c in zip(prompts, completions, strict=True)
        ]
        numbers = self._printed("\n".join(rows) + "\n", _ROW_BYTES * len(rows) + _SPARE_BYTES).splitlines()
        values = [self._number(line, place) for place, line in enumerate(numbers, start=1)]
        if len(values) != len(rows):
            raise StageError(
                f"the outcome reward `{self._shown}` printed {len(values)} numbers for {len(rows)} completions",
                remedy="print exactly one number per input line",
            )
        return _finite(values, self._shown)

    @property
    def _shown(self) -> str:
        return " ".join(self.command)

    def _printed(self, given: str, limit: int) -> bytes:
        """What it prints when it is handed `given`, at most `limit` bytes."""
        by_hand = "try it by hand on one JSON line"
        try:
            status, printed, complaints = _run(self.command, given.encode(), self.directory, self.timeout_s, limit)
        except subprocess.TimeoutExpired:
            raise StageError(
                f"the outcome reward `{self._shown}` timed out after {self.timeout_s:g} seconds",
                remedy=f"{by_hand}, or raise scores.timeout_s",
            ) from None
        except (OSError, ValueError) as error:
            raise StageError(f"the outcome reward `{self._shown}` could not be run: {error}", remedy=by_hand) from None
        if printed is None:
            raise StageError(
                f"the outcome reward `{self._shown}` printed more than {limit:,} bytes and was ended",
                remedy="print exactly one number per input line, and everything else on standard error",
            )
        if status:
            last = (complaints.strip().splitlines() or [b"nothing on stderr"])[-1]
            raise StageError(f"the outcome reward `{self._shown}` exits {status}: {_quotable(last)}", remedy=by_hand)
        return printed

    def _number(self, line: bytes, place: int) -> float:
        """The number that is all of a line; float() alone would let 1_0 pass."""
        with suppress(ValueError):
            if b"_" not in line:
                return float(line)
        found = f"'{_quotable(line)}'" if line.strip() else "it is empty"
        raise StageError(
            f"the outcome reward `{self._shown}` printed no number on line {place}: {found}",
            remedy="print exactly one number per input line, and everything else on standard error",
        )

    def identity(self) -> str:
        """The command line."""
        return digest_of(["command", list(self.command)])


def raised(error: BaseException) -> str:
    """Kind, text and place of what a user's own code raised; its text may fail in turn, and is then left out."""
    try:
        text = str(error)[:_QUOTED]
    except ENDS_THE_RUN:
        raise
    except BaseException:
        text = "(its text cannot be read)"
    place = traceback.extract_tb(error.__traceback__, limit=-1)[0]
    where = "" if place.filename.startswith("<") else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {text}{where}"


def _quotable(text: bytes) -> str:
    """The beginning of what a command wrote, as it can be shown."""
    shown = text[: 4 * _QUOTED].decode(errors="replace")[:_QUOTED]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def _run(
    command: Sequence[str], given: bytes, directory: Path | None, timeout_s: float, limit: int
) -> tuple[int | None, bytes | None, bytes]:
    """Exit status, standard output (None: more than `limit` bytes) and the end of the standard error of a command.

    When the command has ended, what it has started has a moment to write, too, and then all of its session is ended, as
    it is on every other way out. Raises TimeoutExpired, and OSError or ValueError where the command cannot be started.
    """
    with subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            exchange = _Exchange(process, given, limit)
            exchange.finish(timeout_s)
            return process.returncode, None if exchange.too_much else bytes(exchange.printed), bytes(exchange.complaints)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Exchange:
    """What goes into a command and comes out of it, without waiting for one pipe while another is ready."""

    def __init__(self, process: subprocess.Popen[bytes], given: bytes, limit: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process, self.limit = process, limit
        self.printed, self.complaints = bytearray(), bytearray()
        self._given = memoryview(given)
        self._pipes = selectors.DefaultSelector()
        for pipe, ready in ((process.stdin, selectors.EVENT_WRITE), (process.stdout, selectors.EVENT_READ),
                            (process.stderr, selectors.EVENT_READ)):  # fmt: skip
            os.set_blocking(pipe.fileno(), False)
            self._pipes.register(pipe, ready)

    @property
    def too_much(self) -> bool:
        """Whether it printed more than the limit."""
        return len(self.printed) > self.limit

    def finish(self, timeout_s: float) -> None:
        """Goes on until the command has ended, and its pipes are closed or its grace is over, or it printed too much.

        Raises TimeoutExpired for a command that still runs after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        with self._pipes:
            while self._pipes.get_map() and not self.too_much and self.process.poll() is None:
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(self.process.args, timeout_s)
                self._step(_LOOK_S)
            grace = time.monotonic() + _GRACE_S
            while self._pipes.get_map() and not self.too_much and time.monotonic() < grace:
                self._step(_LOOK_S)
            while self._pipes.get_map() and not self.too_much and self._step(0):
                pass  # what was there in time, however late it is read
        if not self.too_much:
            self.process.wait(max(0.0, deadline - time.monotonic()))

    def _step(self, wait_s: float) -> bool:
        """Moves a piece through each pipe that is ready within `wait_s`; whether something was printed."""
        before = len(self.printed)
        for key, _ in self._pipes.select(wait_s):
            if key.fileobj is self.process.stdin:
                self._feed()
                continue
            piece = os.read(key.fd, _READ_BYTES)
            if not piece:
                self._pipes.unregister(key.fileobj)
            elif key.fileobj is self.process.stdout:
                self.printed += piece
            else:
                self.complaints += piece
                del self.complaints[:-_STDERR_BYTES]
        return len(self.printed) > before

    def _feed(self) -> None:
        """Writes the next piece; a command may stop reading, as `head` does."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            self._given = self._given[os.write(stdin.fileno(), self._given[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            self._given = self._given[:0]
        if not self._given:
            self._pipes.unregister(stdin)
            stdin.close()


def _finite(values: Sequence[float], name: str) -> Tensor:
    scores = torch.tensor(values, dtype=torch.float64).to(torch.float32)
    for row in (~scores.isfinite()).nonzero()[:, 0].tolist():
        raise TrainingDiverged(
            f"the outcome reward {name} gave {values[row]} for completion {row} of the batch",
            remedy="make it return finite numbers that fit single precision",
        )
    return scores
