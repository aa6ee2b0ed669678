"""Small things every command prints the same way."""

from __future__ import annotations

import argparse
import getpass

from rlback.accounts.names import check_name
from rlback.errors import ConfigError
from rlback.labelling.display import visible
from rlback.records import Actor


def say(text: str = "") -> None:
    """One line on standard output; what people or policies wrote into it cannot move the cursor or hide."""
    print(visible(text))


def next_command(command: str) -> None:
    """The command to type next, on a line of its own."""
    print(f"  $ {command}")


def actor_of(options: argparse.Namespace) -> Actor:
    """The person at the terminal: `--as NAME`, or the login name.

    Raises:
        ConfigError: the name is empty, too long or not printable.
    """
    name = options.actor if options.actor is not None else _login()
    return Actor(check_name(name, "give another one with --as NAME"), "human")


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise ConfigError("your login name is not known to the system", remedy="say who you are with --as NAME") from None
