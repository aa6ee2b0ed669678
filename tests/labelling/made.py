"""Batches that people label, made without training anything: a campaign on record, and comparisons put in by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlback.campaign import machine
from rlback.config import check_config
from rlback.labelling.batches import add_batch
from rlback.labelling.checks import GoldItem, Rules, add_checks, add_practice, with_checks
from rlback.labelling.slots import rebuild
from rlback.project import Project
from rlback.records import SYSTEM, Actor, Comparison, Completion
from tests.conftest import changed

#: One annotator a comparison, no checks.
PLAIN = Rules()


def made_campaign(project: Project, name: str = "people") -> str:
    """A campaign with human annotators that has not begun."""
    config = check_config(
        changed(name=name, policy=name, labels={"annotators": "human"}, gate={"approver": "human"}), "made"
    )
    return machine.start(project, config, Actor("ada", "human"), name=name)


def comparison(number: int, source: Any = "cross", prompt: str = "") -> Comparison:
    """Comparison `number`, told from others by its texts."""
    sides = (Completion(f"answer {side} to {number}", (1, 2, number % 50), True) for side in ("one", "two"))
    return Comparison(prompt or f"question {number}?", *sides, source)


def gold(n: int) -> list[GoldItem]:
    """Items whose answer is a and b in turn."""
    return [
        GoldItem(Comparison(f"gold {i}?", Completion(f"yes {i}", (), True), Completion(f"no {i}", (), True), "gold"), "ab"[i % 2])
        for i in range(n)
    ]


def made_batch(
    project: Project, n: int, *, rules: Rules = PLAIN, items: Sequence[GoldItem] = (), practice: Sequence[GoldItem] = (),
    round_: int = 1, name: str = "people", comparisons: Sequence[Comparison] = (),
) -> str:
    """A batch of n comparisons with checks as `rules` say, stored as the stage `sample` does it."""
    id_ = f"{name}.r{round_}"
    regular = list(comparisons) or [comparison(i) for i in range(n)]
    those, hidden = with_checks(id_, regular, items, rules, 7)
    with project.store.transaction() as transaction:
        shares = (rules.gold_share, rules.repeat_share)
        add_batch(transaction, name, round_, 1, those, "human", SYSTEM, rules.overlap, shares)
        add_checks(transaction, name, id_, hidden)
        add_practice(transaction, name, practice, "0" * 64)
        rebuild(transaction, id_)
    return id_
