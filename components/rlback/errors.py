"""Every error a user can meet, in one tree.

RlbackError                 exit code
├── ConfigError             2   a configuration key or value is wrong
├── ProjectError            2   not inside a project, or the project is damaged
├── DataError               3   a preference, text or snapshot file is wrong
├── CheckpointError         4   weights are missing, altered or not allowed
├── RegistryError           4   a registry operation was refused
├── LedgerError             5   the ledger does not verify
├── GateRefused             6   a decision was refused
│   └── NotPermitted        6   by who asked, not by what was asked
├── TrainingDiverged        7   a loss, gradient or KL went out of bounds
└── StageError              8   a stage could not be carried out
    └── Held                8   because another process is at it

A message names the thing, the place and the remedy; `remedy` is a command or an action and is printed on
a line of its own.
"""

from __future__ import annotations


class RlbackError(Exception):
    """Base of all errors shown to users without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None, missing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        #: What was asked for by name is not there: the console answers 404.
        self.missing = missing

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Prefect, child processes); keep the remedy on the way.
        return (_rebuild, (type(self), self.message, self.remedy, self.missing))


def _rebuild(kind: type[RlbackError], message: str, remedy: str | None, missing: bool) -> RlbackError:
    error = kind(message, remedy=remedy)
    error.missing = missing
    return error


class ConfigError(RlbackError):
    """A configuration key or value is wrong: names the key, the file and the nearest valid key."""

    exit_code = 2


class ProjectError(RlbackError):
    """The command needs a project directory and there is none, or it is damaged."""

    exit_code = 2


class DataError(RlbackError):
    """A preference, text or snapshot file is wrong: names the file and the line."""

    exit_code = 3


class CheckpointError(RlbackError):
    """A checkpoint is missing, altered, incomplete or holds something that is never loaded."""

    exit_code = 4


class RegistryError(RlbackError):
    """A registry operation (promote, roll back, deploy) was refused."""

    exit_code = 4


class LedgerError(RlbackError):
    """The ledger's hash chain, or what it says about files and registry, does not hold."""

    exit_code = 5


class GateRefused(RlbackError):
    """A decision was refused: stale digest, second decision, or no reason."""

    exit_code = 6


class NotPermitted(GateRefused):
    """The one who asked may not do this; somebody else may."""


class TrainingDiverged(RlbackError):
    """A loss or gradient is not finite, or the KL left its bounds: names the step and the value."""

    exit_code = 7


class StageError(RlbackError):
    """A campaign stage could not be carried out."""

    exit_code = 8


class Held(StageError):
    """Another process holds what this one needs to hold; it ends with that process."""
