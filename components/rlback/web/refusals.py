"""What goes wrong in a request, as a status and one shape of body: {"error": {status, kind, message, remedy}}."""

from __future__ import annotations

from typing import Any

from rlback.accounts.sessions import SignInRefused
from rlback.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GateRefused,
    LedgerError,
    NotPermitted,
    ProjectError,
    RegistryError,
    RlbackError,
    StageError,
)


class Refused(RlbackError):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


#: The first that fits.
STATUS: tuple[tuple[type[RlbackError], int], ...] = (
    (NotPermitted, 403),
    (SignInRefused, 403),
    (GateRefused, 409),
    (RegistryError, 409),
    (StageError, 409),
    (DataError, 422),
    (ConfigError, 422),
    (CheckpointError, 409),
    (ProjectError, 500),
    (LedgerError, 503),
)


def status_of(error: RlbackError) -> int:
    """The status for one of our errors; 404 where the error says that what was asked for is not there."""
    if isinstance(error, Refused):
        return error.status
    if error.missing:
        return 404
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def error_body(status: int, kind: str, message: str, remedy: str | None) -> dict[str, Any]:
    """The one shape of an error."""
    return {"error": {"status": status, "kind": kind, "message": message, "remedy": remedy}}


def require_typed(typed: str, address: str) -> None:
    """Refuses unless a checkpoint's address was typed out as confirmation."""
    if typed.strip() != address:
        raise Refused(422, f"to confirm, type {address}", remedy="type the checkpoint's address exactly")


def whole_digest(digest: str) -> str:
    """The digest of a gate's evidence as sent; a beginning of it is refused: a person decides on exactly what was shown."""
    if len(digest) != 64:
        raise Refused(422, "the digest of the evidence has 64 digits", remedy="send the one the gate's page shows")
    return digest
