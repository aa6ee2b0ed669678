"""Practice: answers with feedback that are no labels."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from rlback.errors import DataError
from rlback.labelling import practice
from rlback.ledger.tables import labels
from rlback.records import Actor
from rlback.registry.verification import verify
from tests.labelling.made import gold, made_batch, made_campaign

ANN = Actor("ann", "human")


@pytest.fixture
def kind(on_both: str) -> str:
    """Every test of this module on both databases."""
    return on_both


@pytest.fixture
def batch(project):
    """A batch with three practice items."""
    made_campaign(project)
    return made_batch(project, 5, practice=gold(3))


def test_each_answer_is_told_what_was_expected_and_none_is_a_label(project, batch):
    """Right, wrong and right again; the end is an event with the count."""
    store = project.store
    for n in range(3):
        item = practice.next_item(store, batch, ANN)
        assert (item.number, item.of) == (n + 1, 3)
        towards = "left1" if (item.left == item.answer) == (n != 1) else "right2"
        told = practice.answer(store, batch, ANN, item.number, towards)
        assert told["right"] is (n != 1)
        assert told["expected"] == ("left" if item.left == item.answer else "right")
    assert practice.next_item(store, batch, ANN) is None
    assert practice.standing(store, batch, ANN) == {"items": 3, "answered": 3, "right": 2}
    assert store.rows(select(labels)) == []
    assert [e.payload for e in store.events("people") if e.kind == "practice.finished"] == [{"items": 3, "right": 2}]
    assert verify(project, None).findings == []


def test_the_first_answer_stands(project, batch):
    """Going back in the browser and choosing the other side changes nothing that is stored."""
    item = practice.next_item(project.store, batch, ANN)
    right, wrong = ("left1", "right1") if item.left == item.answer else ("right1", "left1")
    practice.answer(project.store, batch, ANN, 1, wrong)
    practice.answer(project.store, batch, ANN, 1, right)
    assert practice.standing(project.store, batch, ANN) == {"items": 3, "answered": 1, "right": 0}


@pytest.mark.parametrize(("number", "choice"), [(9, "left1"), (1, "skip"), (1, "best")])
def test_what_is_no_answer_is_refused(project, batch, number, choice):
    """An item that is not there, and choices outside the scale."""
    with pytest.raises(DataError):
        practice.answer(project.store, batch, ANN, number, choice)
    with pytest.raises(DataError, match="no batch"):
        practice.next_item(project.store, "people.r9", ANN)
