"""The statements that every label takes, built once: composing one anew costs more than running it.

Parameters: :batch, :comparison, :annotator, :moment (seconds since 1970), :without (comparisons in hand), :key, :day.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, case, func, insert, select, text, update

from rlback.labelling.quarantines import counts_in
from rlback.ledger.console_tables import guidelines, label_details, showings
from rlback.ledger.label_tables import batch_rules, checks, slots, tallies
from rlback.ledger.tables import batches, comparisons, labels, stages

DRAW_FROM = 60
#: How many labels of one's own lie at least between a comparison and its repeat.
REPEAT_AFTER = 5

_batch, _who, _moment = bindparam("batch"), bindparam("annotator"), bindparam("moment")
_one, _without = bindparam("comparison"), bindparam("without", expanding=True)


def mine(comparison: Any) -> Any:
    """As a condition: :annotator's newest label on a comparison is there, and not one they took back."""
    newest = (
        select(func.max(labels.c.id)).where(labels.c.comparison == comparison, labels.c.annotator == _who).scalar_subquery()
    )
    undone = select(label_details.c.label).where(label_details.c.label == newest, label_details.c.choice == "undo")
    given = select(labels.c.id).where(labels.c.comparison == comparison, labels.c.annotator == _who)
    return given.exists() & ~undone.exists()


def by_others(comparison: Any) -> Any:
    """As a condition: somebody else has given a comparison a label that counts and is no skip."""
    return (
        select(labels.c.id)
        .where(counts_in(_batch), labels.c.comparison == comparison, labels.c.annotator != _who, labels.c.verdict != "skip")
        .exists()
    )


BATCH_STATE = (
    select(batches.c.campaign, batches.c.annotators, batches.c.attempt, stages.c.stage.label("closed"))
    .outerjoin(
        stages,
        (stages.c.campaign == batches.c.campaign) & (stages.c.round == batches.c.round)
        & (stages.c.attempt == batches.c.attempt) & (stages.c.stage == "label"),
    )
    .where(batches.c.id == _batch)
)  # fmt: skip
BATCH_OF = select(comparisons.c.batch).where(comparisons.c.id == _one)
REVISIONS = select(func.count()).select_from(labels).where(labels.c.comparison == _one, labels.c.annotator == _who)
ADD_LABEL, ADD_DETAIL, ADD_SHOWING = insert(labels), insert(label_details), insert(showings)
KEY_TAKEN = select(label_details.c.label).where(label_details.c.key == bindparam("key"))
GIVEN_WITH_KEY = (
    select(labels).join(label_details, label_details.c.label == labels.c.id).where(label_details.c.key == bindparam("key"))
)
_last = (
    select(func.max(labels.c.id).label("id"))
    .join(comparisons, labels.c.comparison == comparisons.c.id)
    .where(comparisons.c.batch == _batch, labels.c.annotator == _who)
    .group_by(labels.c.comparison)
    .subquery()
)
#: The comparison of :annotator's newest label in :batch that they have not taken back.
NEWEST_STANDING = (
    select(labels.c.comparison)
    .join(_last, _last.c.id == labels.c.id)
    .outerjoin(label_details, label_details.c.label == labels.c.id)
    .where(func.coalesce(label_details.c.choice, "") != "undo")
    .order_by(labels.c.id.desc())
    .limit(1)
)
GUIDELINE = select(func.max(guidelines.c.version))
HAS_SLOTS = select(slots.c.comparison).where(slots.c.batch == _batch).limit(1)
RULES = select(batch_rules).where(batch_rules.c.batch == _batch)

_showing = (showings.c.comparison == _one) & (showings.c.annotator == _who)
SHOWING = select(showings.c.left_side).where(_showing)
# In an UPDATE a parameter may not be called like a column: hence :of and :by.
LEASE = (
    update(showings)
    .where(showings.c.comparison == bindparam("of"), showings.c.annotator == bindparam("by"))
    .values(until=bindparam("ends"))
)

_held = (
    select(showings.c.comparison)
    .join(comparisons, comparisons.c.id == showings.c.comparison)
    .where(
        showings.c.annotator == _who, showings.c.until > _moment, comparisons.c.batch == _batch,
        showings.c.comparison.not_in(_without), ~mine(showings.c.comparison),
    )
)  # fmt: skip
HELD = _held.order_by(showings.c.opened).limit(1)
HELD_SECOND = _held.where(by_others(showings.c.comparison)).order_by(showings.c.opened).limit(1)

_leases = (
    select(func.count())
    .where(showings.c.comparison == slots.c.comparison, showings.c.annotator != _who, showings.c.until > _moment)
    .scalar_subquery()
)
_open = select(slots.c.comparison).where(
    slots.c.batch == _batch, slots.c.comparison.not_in(_without), ~mine(slots.c.comparison)
)
FREE = _open.where(text("slots.missing > 0"), _leases < slots.c.missing).order_by(slots.c.position).limit(DRAW_FROM)
FREE_SECOND = _open.where(by_others(slots.c.comparison)).order_by(slots.c.position).limit(DRAW_FROM)
OTHERS_LEASES = select(func.count()).where(
    showings.c.comparison == _one, showings.c.annotator != _who, showings.c.until > _moment
)
ANY_MISSING = select(slots.c.comparison).where(slots.c.batch == _batch, text("slots.missing > 0")).limit(1)
MISSING = select(slots.c.missing).where(slots.c.comparison == _one)

_seen = (
    select(showings.c.comparison)
    .join(comparisons, comparisons.c.id == showings.c.comparison)
    .where(showings.c.annotator == _who, comparisons.c.batch == _batch)
)
SEEN = select(func.count()).select_from(_seen.subquery())
_own = select(labels.c.comparison).where(labels.c.annotator == _who)
_recent = _own.order_by(labels.c.id.desc()).limit(REPEAT_AFTER).subquery()
_check = (
    select(checks.c.comparison)
    .join(comparisons, comparisons.c.id == checks.c.comparison)
    .where(comparisons.c.batch == _batch, checks.c.comparison.not_in(_seen))
)
#: Not what they labelled themselves, in this batch or an earlier one that the item comes from.
GOLD = _check.where(checks.c.kind == "gold", checks.c.of.not_in(_own))
REPEAT = _check.where(checks.c.kind == "repeat", checks.c.of.in_(_own), checks.c.of.not_in(select(_recent.c.comparison)))

FILLED = (
    select(labels.c.annotator, label_details.c.choice)
    .outerjoin(label_details, label_details.c.label == labels.c.id)
    .where(counts_in(_batch), labels.c.comparison == _one)
    .order_by(labels.c.id)
)
SET_MISSING = update(slots).where(slots.c.comparison == bindparam("of")).values(missing=bindparam("left"))
_tally = (
    (tallies.c.batch == bindparam("of")) & (tallies.c.annotator == bindparam("by")) & (tallies.c.day == bindparam("on"))
)
COUNT_UP = update(tallies).where(_tally).values(labels=tallies.c.labels + 1)
ADD_TALLY = insert(tallies)


def _sum(*where: Any) -> Any:
    condition = where[0]
    for more in where[1:]:
        condition = condition & more
    return func.coalesce(func.sum(case((condition, tallies.c.labels), else_=0)), 0)


TALLY = select(
    _sum(tallies.c.batch == _batch).label("labelled"),
    _sum(tallies.c.batch == _batch, tallies.c.annotator == _who).label("mine"),
    _sum(tallies.c.annotator == _who, tallies.c.day == bindparam("day")).label("today"),
).where((tallies.c.batch == _batch) | ((tallies.c.annotator == _who) & (tallies.c.day == bindparam("day"))))
SIZE = (
    select(batches.c.size, batch_rules.c.target)
    .outerjoin(batch_rules, batch_rules.c.batch == batches.c.id)
    .where(batches.c.id == _batch)
)
LAST_SECONDS = (
    select(labels.c.seconds)
    .where(labels.c.annotator == _who, labels.c.seconds > 0)
    .order_by(labels.c.id.desc())
    .limit(10)
)
