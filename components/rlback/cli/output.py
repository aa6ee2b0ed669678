"""Small things every command prints the same way."""

from __future__ import annotations

import argparse
import getpass

from rlback.errors import ConfigError
from rlback.records import Actor

NAME_CHARS = 64
#: Names that the ledger uses for itself and for simulations.
RESERVED_NAMES = {"rlback", "system", "simulated", "no-gate", "demo"}


def say(text: str = "") -> None:
    """One line on standard output."""
    print(text)


def next_command(command: str) -> None:
    """The command to type next, on a line of its own."""
    print(f"  $ {command}")


def actor_of(options: argparse.Namespace) -> Actor:
    """The person at the terminal: `--as NAME`, or the login name.

    Raises:
        ConfigError: the name is empty, too long or not printable.
    """
    name = options.actor if options.actor is not None else _login()
    if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"{name[:NAME_CHARS]!r} is no name to record", remedy="give a printable one with --as NAME")
    if name.strip().lower() in RESERVED_NAMES or name.strip().lower().startswith("sim-"):
        raise ConfigError(f"{name.strip()!r} is a name of the system's own", remedy="give another one with --as NAME")
    return Actor(name.strip(), "human")


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise ConfigError("your login name is not known to the system", remedy="say who you are with --as NAME") from None
