"""Tables about labels that were added after the first ones; `Store` adds them to an older database.

What decides something is append-only: a change is a row more. `slots` and `tallies` are counts that the labels could be
asked for as well; they are there so that nobody who labels waits for a scan of the batch (see `labelling.slots`).
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint, text

from rlback.ledger.tables import labels, metadata

quarantines = Table(
    "quarantines",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("act", String, nullable=False),  # set | lifted
    Column("of", Integer, nullable=False),  # the row that is lifted; its own number where it is set
    Column("annotator", String, nullable=False),
    Column("batch", String, nullable=False),  # "" for every batch
    Column("comparison", String, nullable=False),  # "" for all of them
    Column("reason", Text, nullable=False),
    Column("actor", String, nullable=False),
    Column("time", String, nullable=False),
)

batch_rules = Table(
    "batch_rules",
    metadata,
    Column("batch", ForeignKey("batches.id"), primary_key=True),
    Column("overlap", Integer, nullable=False),  # how many annotators each comparison is for
    Column("gold_share", Float, nullable=False),
    Column("repeat_share", Float, nullable=False),
    Column("target", Integer, nullable=False),  # labels the batch comes to, checks included
)

checks = Table(
    "checks",
    metadata,
    Column("comparison", ForeignKey("comparisons.id"), primary_key=True),
    Column("kind", String, nullable=False),  # gold | repeat
    Column("of", String, nullable=False),  # the comparison it shows again; "" where it comes from a file
    Column("answer", String, nullable=False),  # of a gold item: a | b | tie; else ""
)

practice_items = Table(
    "practice_items",
    metadata,
    Column("campaign", ForeignKey("campaigns.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("prompt", Text, nullable=False),
    Column("a", Text, nullable=False),
    Column("b", Text, nullable=False),
    Column("answer", String, nullable=False),
    Column("why", Text, nullable=False),
)

practice_answers = Table(
    "practice_answers",
    metadata,
    Column("campaign", ForeignKey("campaigns.name"), primary_key=True),
    Column("annotator", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("choice", String, nullable=False),
    Column("right", Integer, nullable=False),  # 1 | 0
    Column("time", String, nullable=False),
)

imports = Table(
    "imports",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("sha256", String, nullable=False),  # of the file
    Column("form", String, nullable=False),
    Column("counts", Text, nullable=False),  # JSON: what the file held
    Column("actor", String, nullable=False),
    Column("time", String, nullable=False),
    UniqueConstraint("campaign", "sha256", name="a_file_once"),
)

imported_labels = Table(
    "imported_labels",
    metadata,
    Column("label", ForeignKey("labels.id"), primary_key=True),
    Column("number", ForeignKey("imports.number"), nullable=False, index=True),
)

slots = Table(
    "slots",
    metadata,
    Column("comparison", ForeignKey("comparisons.id"), primary_key=True),
    Column("batch", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("missing", Integer, nullable=False),  # how many more annotators it is for
)
Index(
    "open_slots", slots.c.batch, slots.c.position, sqlite_where=text("missing > 0"), postgresql_where=text("missing > 0")
)

tallies = Table(
    "tallies",
    metadata,
    Column("batch", String, primary_key=True),
    Column("annotator", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("labels", Integer, nullable=False),  # comparisons that this annotator labelled for the first time on this day
)
Index("tallies_by_annotator", tallies.c.annotator, tallies.c.day)
LABELS_BY_ANNOTATOR = Index("labels_by_annotator", labels.c.annotator, labels.c.id)

LABEL_TABLES = (quarantines, batch_rules, checks, practice_items, practice_answers, imports, imported_labels, slots, tallies)
LABEL_APPEND_ONLY = ("quarantines", "batch_rules", "checks", "practice_items", "practice_answers", "imports", "imported_labels")
