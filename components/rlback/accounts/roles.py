"""Roles and what each may do. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rlback.errors import ConfigError

#: role -> permissions. `look` is everything that could tell an annotator which checkpoint wrote what.
ROLES: dict[str, frozenset[str]] = {
    "annotator": frozenset({"label"}),
    "approver": frozenset({"look", "decide", "roll-back", "deploy", "guideline", "quarantine"}),
    "operator": frozenset({"look", "roll-back", "deploy", "run", "quarantine", "import"}),
    "auditor": frozenset({"look", "verify"}),
    # Approving alone past four eyes and quorum; given to few, used in public (registry/break_glass.py).
    "emergency": frozenset({"look", "break-glass"}),
    "admin": frozenset({"look", "verify", "users", "guideline"}),
}
PERMISSIONS = tuple(sorted(frozenset().union(*ROLES.values())))


def permissions_of(roles: Iterable[str]) -> frozenset[str]:
    """What somebody with these roles may do; unknown roles allow nothing."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))


def check_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """The roles once each, in the order of `ROLES`.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    asked = set(roles)
    if unknown := sorted(asked - set(ROLES)):
        raise ConfigError(f"{unknown[0][:40]!r} is no role", remedy=f"roles: {', '.join(ROLES)}")
    if not asked:
        raise ConfigError("a user needs at least one role", remedy=f"roles: {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in asked)


def check_scopes(scopes: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """A token's scopes in order: permissions its owner has.

    Raises:
        ConfigError: there is none, or one that the owner has not.
    """
    asked, may = set(scopes), set(allowed)
    if not asked or asked - may:
        what = f"{sorted(asked - may)[0][:40]!r} is no permission of yours" if asked else "a token needs at least one scope"
        raise ConfigError(what, remedy=f"scopes: {', '.join(sorted(may)) or 'none'}")
    return tuple(sorted(asked))
