"""Labels in quarantine: they stay on record and are shown as such, and no fit, snapshot or gate counts them.

A quarantine holds for all labels of an annotator, given and to come; for those of one batch; or for the one on a
comparison. Rows are only added, so that which labels counted at an earlier time can be said at any later one: by the
number of the newest row there was then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select

from rlback.ledger.label_tables import quarantines
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import labels

_ALL = select(quarantines).order_by(quarantines.c.id)


@dataclass(frozen=True)
class Quarantine:
    """One quarantine; `lifted` is the row that ended it, if any."""

    id: int
    annotator: str
    batch: str
    comparison: str
    reason: str
    by: str
    time: str
    lifted: dict[str, Any] | None = None

    @property
    def scope(self) -> str:
        """What it holds for, in words."""
        if self.comparison:
            return f"the label of {self.annotator} on {self.comparison}"
        return f"labels of {self.annotator} in {self.batch}" if self.batch else f"all labels of {self.annotator}"


class InForce:
    """The quarantines that hold at one time."""

    def __init__(self, those: Iterable[Quarantine]) -> None:
        self._by_scope: dict[tuple[str, str, str], Quarantine] = {}
        for one in those:
            self._by_scope[one.annotator, one.batch, one.comparison] = one

    def over(self, annotator: str, batch: str, comparison: str) -> Quarantine | None:
        """The widest quarantine that a label is in, or None."""
        for scope in (("", ""), (batch, ""), (batch, comparison)):
            if (found := self._by_scope.get((annotator, *scope))) is not None:
                return found
        return None


def list_quarantines(where: Store | Transaction, until: int | None = None) -> list[Quarantine]:
    """Every quarantine, oldest first, as of the row numbered `until`."""
    rows = where.rows(_ALL if until is None else _ALL.where(quarantines.c.id <= until))
    lifted = {row.of: {"reason": row.reason, "by": row.actor, "time": row.time} for row in rows if row.act == "lifted"}
    return [
        Quarantine(r.id, r.annotator, r.batch, r.comparison, r.reason, r.actor, r.time, lifted.get(r.id))
        for r in rows
        if r.act == "set"
    ]


def in_force(where: Store | Transaction, until: int | None = None) -> InForce:
    """Those that are not lifted, as of the row numbered `until`."""
    return InForce(q for q in list_quarantines(where, until) if q.lifted is None)


def newest_row(where: Store | Transaction) -> int:
    """The number of the newest row, 0 where there is none."""
    return int(where.rows(select(func.max(quarantines.c.id)))[0][0] or 0)


def counts(batch: str) -> ColumnElement[bool]:
    """As a condition on rows of `labels` of one batch: the label is in no quarantine."""
    return counts_in(batch)


def counts_in(batch: Any) -> ColumnElement[bool]:
    """As `counts`; `batch` may be a parameter."""
    lifted = select(quarantines.c.of).where(quarantines.c.act == "lifted")
    held = select(quarantines.c.id).where(
        quarantines.c.act == "set",
        quarantines.c.id.not_in(lifted),
        quarantines.c.annotator == labels.c.annotator,
        or_(
            quarantines.c.comparison == labels.c.comparison,
            and_(quarantines.c.comparison == "", or_(quarantines.c.batch == "", quarantines.c.batch == batch)),
        ),
    )
    return ~held.exists()
