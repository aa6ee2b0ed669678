"""Who may not approve a candidate: who started its campaign, gave more than half of its labels, or shaped them.

Shaping is putting labels of the round in quarantine, or lifting that: it changes what the evidence says.

On as soon as there are accounts. Before that names are only claimed (`--as NAME`), and one person may work alone.
Declining and asking for more labels are open to everybody who may decide: neither lets a candidate pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import func, inspect, select

from rlback.errors import NotPermitted
from rlback.labelling.batches import stands
from rlback.ledger.console_tables import users
from rlback.ledger.label_tables import quarantines
from rlback.ledger.store import Store, Transaction
from rlback.ledger.tables import batches, campaigns, comparisons, labels
from rlback.records import Actor

#: An approver may have given at most this share of a round's labels.
LABEL_SHARE = 0.5


def objection(run: Callable[[Any], Any], campaign: str, round_: int, approver: str) -> str | None:
    """Why this person may not approve the candidate of a round, or None; `run` executes a statement."""
    started_by = run(select(campaigns.c.started_by).where(campaigns.c.name == campaign)).scalar()
    if started_by is not None and started_by.casefold() == approver.casefold():
        return f"{approver} started campaign {campaign}"
    shaped = run(
        select(quarantines.c.comparison).where(
            func.lower(quarantines.c.actor) == approver.lower(), _touches(campaign, round_)
        )
    ).first()
    if shaped is not None:
        return f"{approver} decided which labels of this round are in quarantine"
    given = (
        select(labels.c.annotator, func.count(func.distinct(labels.c.comparison)).label("n"))
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .join(batches, comparisons.c.batch == batches.c.id)
        .where(batches.c.campaign == campaign, batches.c.round == round_, stands())
        .group_by(labels.c.annotator)
    )
    counts = {row.annotator.casefold(): row.n for row in run(given).all()}
    own, total = counts.get(approver.casefold(), 0), sum(counts.values())
    if own > LABEL_SHARE * total:
        return f"{approver} gave {own} of the {total} labels, more than {LABEL_SHARE:.0%}"
    return None


def _touches(campaign: str, round_: int) -> Any:
    """Rows of `quarantines` that concern labels of a round."""
    these = select(batches.c.id).where(batches.c.campaign == campaign, batches.c.round == round_)
    theirs = (
        select(labels.c.annotator)
        .join(comparisons, labels.c.comparison == comparisons.c.id)
        .where(comparisons.c.batch.in_(these))
    )
    everywhere = (quarantines.c.batch == "") & quarantines.c.annotator.in_(theirs)
    return quarantines.c.batch.in_(these) | everywhere


def require(transaction: Transaction, gate: str, campaign: str, round_: int, approver: Actor) -> None:
    """Refuses an approval by one's own hand, where there are accounts.

    Raises:
        NotPermitted: says which of the two it is.
    """
    if approver.kind != "human" or not accounts_exist(transaction):
        return
    why = objection(transaction.execute, campaign, round_, approver.name)
    if why is not None:
        raise NotPermitted(f"{why}: somebody else must approve at gate {gate}", remedy="ask another approver")


def objection_now(store: Store, campaign: str, round_: int, approver: str) -> str | None:
    """What `require` would say, for showing it before anybody presses a button."""
    with store.engine.connect() as connection:
        return objection(connection.execute, campaign, round_, approver)


def accounts_exist(transaction: Transaction) -> bool:
    """Whether names are those of accounts, and not only claimed."""
    if not inspect(transaction.connection).has_table(users.name):
        return False  # the database was made before there were accounts
    return transaction.execute(select(users.c.name)).first() is not None
