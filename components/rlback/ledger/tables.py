"""The tables of the one SQL database: campaigns, stages, labels, gates, decisions, events.

Append-only tables (`events`, `labels`, `decisions`) carry triggers that refuse UPDATE and DELETE, so that
even another program that opens the file cannot rewrite them by mistake; what it does on purpose breaks the
hash chain (see `ledger.chain`).
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("time", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False, index=True),
    Column("actor", String, nullable=False),
    Column("actor_kind", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("name", String, primary_key=True),
    Column("policy", String, nullable=False, index=True),
    Column("config", Text, nullable=False),
    Column("config_digest", String, nullable=False),
    Column("inputs", Text, nullable=False),  # paths and digests of the files handed over on the command line
    Column("created", String, nullable=False),
    Column("started_by", String, nullable=False),
    Column("state", String, nullable=False),  # active | finished | stopped
    Column("finish_reason", String, nullable=False, default=""),
    Column("kept_version", Integer),  # the checkpoint the next round starts from
)

stages = Table(
    "stages",
    metadata,
    Column("campaign", ForeignKey("campaigns.name"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("stage", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("output", Text, nullable=False),
    Column("output_digest", String, nullable=False),
    Column("cache_key", String, index=True),
    Column("finished", String, nullable=False),
    Column("seconds", Float, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("digest", String, primary_key=True),
    Column("kind", String, nullable=False),  # policy | reward_model
    Column("model_id", String, nullable=False),
    Column("location", Text, nullable=False),  # relative to the project where it lies inside it
    Column("created", String, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("policy", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", ForeignKey("checkpoints.digest"), nullable=False),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("parent", Integer),
    Column("status", String, nullable=False),  # base | candidate | approved | declined
    Column("lineage", Text, nullable=False),
    Column("created", String, nullable=False),
    UniqueConstraint("campaign", "round", name="one_candidate_a_round"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("policy", String, primary_key=True),
    Column("alias", String, primary_key=True),  # candidate | approved | deployed
    Column("version", Integer, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String, primary_key=True),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("annotators", String, nullable=False),  # human | simulated
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String, primary_key=True),
    Column("batch", ForeignKey("batches.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("source", String, nullable=False),  # base | inside | cross
    Column("prompt", Text, nullable=False),
    Column("a", Text, nullable=False),  # JSON of records.Completion
    Column("b", Text, nullable=False),
)

labels = Table(
    "labels",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("comparison", ForeignKey("comparisons.id"), nullable=False, index=True),
    Column("annotator", String, nullable=False),
    Column("annotator_kind", String, nullable=False),
    Column("verdict", String, nullable=False),  # a | b | tie | skip
    Column("left_side", String, nullable=False),  # which completion was shown left: a | b
    Column("revision", Integer, nullable=False),
    Column("seconds", Float),
    Column("time", String, nullable=False),
    UniqueConstraint("comparison", "annotator", "revision", name="a_revision_once"),
)

gates = Table(
    "gates",
    metadata,
    Column("id", String, primary_key=True),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String, nullable=False),  # open | approved | declined | more-labels | expired
    Column("evidence", Text, nullable=False),
    Column("evidence_digest", String, nullable=False),
    Column("opened", String, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("gate", ForeignKey("gates.id"), primary_key=True),  # the first decision wins
    Column("verdict", String, nullable=False),  # approve | decline | more-labels
    Column("approver", String, nullable=False),
    Column("approver_kind", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence_digest", String, nullable=False),
    Column("time", String, nullable=False),
)

APPEND_ONLY = ("events", "labels", "decisions")
