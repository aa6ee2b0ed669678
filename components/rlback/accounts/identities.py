"""Accounts that are tied to a subject at an OpenID Connect provider."""

from __future__ import annotations

import secrets

from sqlalchemy import insert, select

from rlback.accounts.names import check_user_name
from rlback.accounts.oidc import Identity
from rlback.accounts.sessions import SignInRefused, open_session
from rlback.accounts.users import hash_password
from rlback.errors import ConfigError
from rlback.ledger.console_tables import identities, users
from rlback.ledger.store import Store, now
from rlback.records import Actor, digest_of


def sign_in_as(store: Store, who: Identity, address: str, *, create: bool) -> str:
    """Opens a session for the account tied to this subject; returns what its cookie is to hold.

    Raises:
        SignInRefused: nobody here has that name and none is created, the account is disabled, or it is another
            subject's already.
    """
    try:
        name = check_user_name(who.name)
    except ConfigError:
        raise SignInRefused("the provider's name for you is none for an account here", remedy="ask an admin") from None
    key = (identities.c.issuer == who.issuer) & (identities.c.subject == who.subject)
    with store.transaction() as transaction:
        tied = transaction.execute(select(identities.c.user).where(key)).scalar()
        if tied is None:
            row = transaction.execute(select(users.c.name).where(users.c.name == name)).first()
            if row is None and not create:
                raise SignInRefused(f"there is no account {name} here", remedy="ask an admin for one")
            if transaction.execute(select(identities.c.subject).where(identities.c.user == name)).first() is not None:
                raise SignInRefused(f"the account {name} belongs to another person at the provider", remedy="ask an admin")
            if row is None:
                # Without a password anybody knows, and without a role: an admin gives it what it may do.
                hashed = hash_password(secrets.token_urlsafe(32))
                transaction.execute(insert(users).values(name=name, password=hashed, roles="", state="active", created=now()))
                made = {"user": name, "roles": [], "password": digest_of(hashed)}
                transaction.event("user.added", f"user:{name}", Actor(name, "human"), made)
            transaction.execute(insert(identities).values(issuer=who.issuer, subject=who.subject, user=name))
            transaction.event(
                "user.tied", f"user:{name}", Actor(name, "human"),
                {"user": name, "issuer": who.issuer, "subject": who.subject},
            )  # fmt: skip
            tied = name
        state = transaction.execute(select(users.c.state).where(users.c.name == tied)).scalar_one()
    if state != "active":
        raise SignInRefused(f"the account {tied} is disabled", remedy="ask an admin")
    return open_session(store, tied, address)
