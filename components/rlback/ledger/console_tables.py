"""The console's own tables: users, sessions, tokens, what a label says beyond its verdict, and who looks at what now.

They belong to the same database and metadata as `ledger.tables`. `label_details` and `guidelines` are append-only like
the labels. Sessions, leases and failed sign-ins decide nothing, so they are rows without events; every change of a
user, token or guideline is an event.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text

from rlback.ledger.tables import metadata

users = Table(
    "users",
    metadata,
    Column("name", String, primary_key=True),
    Column("password", Text, nullable=False),  # Argon2id, with its salt and parameters
    Column("roles", String, nullable=False),  # names in order, separated by spaces
    Column("state", String, nullable=False),  # active | disabled
    Column("created", String, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String, primary_key=True),  # SHA-256 of what the cookie holds
    Column("user", ForeignKey("users.name"), nullable=False, index=True),
    Column("opened", Float, nullable=False),  # seconds since 1970, as are all times that expire
    Column("seen", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("issuer", String, primary_key=True),
    Column("subject", String, primary_key=True),  # the provider's own name for the person, which never changes
    Column("user", ForeignKey("users.name"), nullable=False, unique=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),  # SHA-256 of the token
    Column("user", ForeignKey("users.name"), nullable=False, index=True),
    Column("label", String, nullable=False),
    Column("scopes", String, nullable=False),
    Column("created", String, nullable=False),
    Column("expires", Float, nullable=False),
    Column("revoked", Integer, nullable=False, default=0),
)

failures = Table(
    "sign_in_failures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False, index=True),  # name:… or address:…
    Column("time", Float, nullable=False),
)

showings = Table(
    "showings",
    metadata,
    Column("comparison", ForeignKey("comparisons.id"), primary_key=True),
    Column("annotator", String, primary_key=True),
    Column("left_side", String, nullable=False),  # which completion this annotator sees left: a | b
    Column("opened", String, nullable=False),
    Column("until", Float, nullable=False),  # end of the lease
    Index("leases_by_end", "until"),
    Index("leases_by_annotator", "annotator", "until"),
)

label_details = Table(
    "label_details",
    metadata,
    Column("label", ForeignKey("labels.id"), primary_key=True),
    Column("choice", String, nullable=False),  # left2 | left1 | equal | right1 | right2 | both-bad | skip | undo
    Column("strength", Integer),  # -2 (b far better) to 2 (a far better); None for both-bad, skip and undo
    Column("flags", Text, nullable=False),  # JSON list
    Column("rationale", Text, nullable=False),
    Column("key", String, nullable=False, unique=True),  # of the submission: the same one twice is one label
    Column("interface", String, nullable=False),
    Column("guideline", Integer, nullable=False),  # version in force when the label was given; 0 before the first
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("author", String, nullable=False),
    Column("time", String, nullable=False),
)

starts = Table(
    "starts",
    metadata,
    Column("key", String, primary_key=True),  # of the request: the same one twice is one campaign
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("request", String, nullable=False),  # digest of name, configuration and inputs
)

TABLES = (users, identities, sessions, tokens, failures, showings, label_details, guidelines, starts)
APPEND_ONLY = ("label_details", "guidelines")
