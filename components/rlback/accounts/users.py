"""Users: added, given roles, disabled. Never removed, because the ledger names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from rlback.accounts.names import check_user_name
from rlback.accounts.roles import check_roles, permissions_of
from rlback.errors import ConfigError
from rlback.ledger.console_tables import sessions, tokens, users
from rlback.ledger.store import Store, Transaction, now
from rlback.records import Actor, digest_of, words_of

LEAST_PASSWORD = 10
MOST_PASSWORD = 256


@dataclass(frozen=True)
class User:
    """One account; `permissions` is what its roles come to, less what a token leaves out."""

    name: str
    roles: tuple[str, ...]
    state: str
    created: str
    permissions: frozenset[str]

    @property
    def actor(self) -> Actor:
        """As the ledger names this person."""
        return Actor(self.name, "human")


def user_of(row: Any) -> User:
    """The user of a row; a disabled one may do nothing."""
    roles = tuple(row.roles.split())
    return User(row.name, roles, row.state, row.created, permissions_of(roles if row.state == "active" else ()))


def count_users(store: Store) -> int:
    """How many accounts there are, disabled ones included."""
    return int(store.rows(select(func.count()).select_from(users))[0][0])


def list_users(store: Store) -> list[User]:
    """All accounts by name."""
    return [user_of(row) for row in store.rows(select(users).order_by(users.c.name))]


def find_user(store: Store, name: str) -> User:
    """One account.

    Raises:
        ConfigError: there is none of that name.
    """
    row = store.first(select(users).where(users.c.name == name))
    if row is None:
        raise ConfigError(f"there is no user {name[:64]!r}", remedy="`rlback users list` shows who there is", missing=True)
    return user_of(row)


def add_user(
    store: Store, name: str, password: str, roles: Iterable[str], actor: Actor | None, *, first: bool = False
) -> User:
    """Adds an account; `actor` None stands for the person whose account it is (the first admin).

    Raises:
        ConfigError: name, password or roles are not allowed, the name is taken, or `first` and there is one already.
    """
    plain, kept = check_user_name(name), check_roles(roles)
    hashed = hash_password(password)
    with store.transaction() as transaction:
        if first and transaction.execute(select(users.c.name)).first() is not None:
            raise ConfigError("there is an admin already", remedy="sign in, or ask an admin for an account")
        if transaction.execute(select(users.c.name).where(users.c.name == plain)).first() is not None:
            raise ConfigError(f"there is a user {plain} already", remedy="take another name")
        transaction.execute(
            insert(users).values(name=plain, password=hashed, roles=" ".join(kept), state="active", created=now())
        )
        who = actor or Actor(plain, "human")
        transaction.event("user.added", f"user:{plain}", who, {"user": plain, "roles": list(kept), "password": digest_of(hashed)})
    return find_user(store, plain)


def set_roles(store: Store, name: str, roles: Iterable[str], actor: Actor) -> User:
    """Gives a user other roles; they hold from the next request on.

    Raises:
        ConfigError: unknown user or role, or nobody would be admin any more.
    """
    kept = check_roles(roles)
    with store.transaction() as transaction:
        was = _row(transaction, name)
        if "admin" not in kept:
            _require_other_admin(transaction, name)
        transaction.execute(update(users).where(users.c.name == name).values(roles=" ".join(kept)))
        transaction.event(
            "user.roles", f"user:{name}", actor, {"user": name, "from": was.roles.split(), "roles": list(kept)}
        )
    return find_user(store, name)


def set_state(store: Store, name: str, state: str, actor: Actor, reason: str) -> User:
    """Disables a user, or makes a disabled one active again. A disabled one's sessions and tokens end.

    Raises:
        ConfigError: unknown user or state, no reason, or nobody would be admin any more.
    """
    if state not in ("active", "disabled"):
        raise ConfigError(f"{state[:20]!r} is no state of a user", remedy="active or disabled")
    reason = words_of(reason)
    if not reason:
        raise ConfigError("a change of a user's state needs a reason", remedy="say why")
    with store.transaction() as transaction:
        _row(transaction, name)
        if state == "disabled":
            _require_other_admin(transaction, name)
            _end_sessions(transaction, name)
            transaction.execute(update(tokens).where(tokens.c.user == name).values(revoked=1))
        transaction.execute(update(users).where(users.c.name == name).values(state=state))
        transaction.event(f"user.{state}", f"user:{name}", actor, {"user": name, "reason": reason})
    return find_user(store, name)


def set_password(store: Store, name: str, password: str, actor: Actor) -> None:
    """Gives a user another password and ends every session.

    Raises:
        ConfigError: unknown user, or a password that is not allowed.
    """
    hashed = hash_password(password)
    with store.transaction() as transaction:
        _row(transaction, name)
        transaction.execute(update(users).where(users.c.name == name).values(password=hashed))
        _end_sessions(transaction, name)
        transaction.event("user.password", f"user:{name}", actor, {"user": name, "password": digest_of(hashed)})


def hash_password(password: str) -> str:
    """Argon2id with the library's defaults (RFC 9106, low-memory profile).

    Raises:
        ConfigError: it is too short, too long, or one character only.
    """
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD or len(set(password)) < 4:
        raise ConfigError(
            f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters, not all alike", remedy="choose another one"
        )
    return str(_hasher().hash(password.encode("utf-8", "surrogatepass")))


def password_fits(row: Any, password: str) -> bool:
    """Whether this is the password of a row of `users`; None for the row takes as long and says no."""
    from argon2.exceptions import InvalidHashError, VerificationError

    hashed = row.password if row is not None else _stand_in()
    try:
        fits = _hasher().verify(hashed, password[: MOST_PASSWORD + 1].encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
    return bool(fits) and row is not None


@cache
def _hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _stand_in() -> str:
    """A hash of nothing anybody knows, so that an unknown name costs what a known one does."""
    import secrets

    return str(_hasher().hash(secrets.token_hex(16)))


def _row(transaction: Transaction, name: str) -> Any:
    row = transaction.execute(select(users).where(users.c.name == name)).first()
    if row is None:
        raise ConfigError(f"there is no user {name[:64]!r}", remedy="`rlback users list` shows who there is", missing=True)
    return row


def _require_other_admin(transaction: Transaction, name: str) -> None:
    rows = transaction.execute(select(users).where(users.c.name != name, users.c.state == "active")).all()
    held = transaction.execute(select(users.c.roles).where(users.c.name == name)).scalar_one()
    if "admin" in held.split() and not any("admin" in row.roles.split() for row in rows):
        raise ConfigError(f"{name} is the only admin", remedy="make somebody else admin first")


def _end_sessions(transaction: Transaction, name: str) -> None:
    transaction.execute(delete(sessions).where(sessions.c.user == name))
