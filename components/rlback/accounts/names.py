"""Names of people, as the ledger records them. Pure."""

from __future__ import annotations

import unicodedata

from rlback.errors import ConfigError

NAME_CHARS = 64
#: Names that the ledger uses for itself and for simulations.
RESERVED_NAMES = {"rlback", "system", "simulated", "no-gate", "demo"}


def check_name(name: str, remedy: str) -> str:
    """The name without blanks around it.

    Raises:
        ConfigError: it is empty, too long, not printable, or one that the system uses for itself.
    """
    if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"{name[:NAME_CHARS]!r} is no name to record", remedy=remedy)
    plain = name.strip()
    if plain.lower() in RESERVED_NAMES or plain.lower().startswith("sim-"):
        raise ConfigError(f"{plain!r} is a name of the system's own", remedy=remedy)
    return plain


def check_user_name(name: str) -> str:
    """A name for an account: letters, digits and `. _ -`, a letter first, compared without regard to case.

    Two accounts whose names only look different (case, Unicode forms) would make two people of one.

    Raises:
        ConfigError: it is none.
    """
    plain = check_name(unicodedata.normalize("NFKC", name).lower(), "take another one")
    if not plain[0].isalpha() or not all(c.isalnum() or c in "._-" for c in plain) or not plain.isascii():
        raise ConfigError(
            f"{plain!r} is no name for a user", remedy="take ASCII letters, digits, dots, hyphens; a letter first"
        )
    return plain
