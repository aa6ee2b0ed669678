"""Labelling over HTTP: blind, once, under a lease, undone by a revision."""

from __future__ import annotations

import json
import threading
import time

import pytest
from sqlalchemy import select, update

from rlback.labelling import queue
from rlback.labelling.batches import counting_labels, flags_given
from rlback.ledger.console_tables import label_details, showings
from rlback.ledger.tables import labels
from rlback.records import Actor
from rlback.registry.recorded import ROW_CHECKS
from rlback.registry.recorded_people import PEOPLE_CHECKS
from tests.web.conftest import BASE

BATCH = "helper.r1"


def item_of(browser):
    return browser.twin(f"/label/{BATCH}")["item"]


def give(browser, comparison, choice="left1", key="key-00000001", **fields):
    return browser.fill(f"/label/{BATCH}/submit", {"comparison": comparison, "choice": choice, "key": key, **fields})


def label_rows(project, annotator):
    return project.store.rows(select(labels).where(labels.c.annotator == annotator).order_by(labels.c.id))


def test_what_is_shown_tells_nothing_about_checkpoints(as_, story):
    """Neither the page nor its twin names a checkpoint, a source or which side is a."""
    ann = as_("ann")
    page, twin = ann.get(f"/label/{BATCH}").text, json.dumps(ann.twin(f"/label/{BATCH}"))
    for text in (page, twin):
        for secret in ("helper@", "cross", "inside", "left_side", '"ids"', "candidate"):
            assert secret not in text
    assert set(item_of(ann)) == {"comparison", "prompt", "left", "right", "until"}


def test_the_side_order_is_drawn_for_each_annotator_and_stays(as_, story):
    """Sixteen comparisons, two annotators: both orders occur, and a second look shows the same one."""
    for who in ("ann", "bob"):
        actor = Actor(who, "human")
        seen = {}
        for _ in range(16):
            shown = queue.next_shown(story.store, BATCH, actor, list(seen), second=False)
            if shown is None:
                break
            seen[shown.item.id] = shown.left
        for comparison, left in seen.items():
            assert queue.show_again(story.store, comparison, actor).left == left
        if who == "ann":
            assert len(seen) == 16
            assert set(seen.values()) == {"a", "b"}
    rows = story.store.rows(select(showings))
    assert all(row.left_side in ("a", "b") for row in rows)


def test_a_choice_becomes_the_verdict_of_the_side_that_was_shown(as_, story):
    """`left2` is the verdict for whichever completion lay left, with strength, flags and rationale beside it."""
    ann = as_("ann")
    item = item_of(ann)
    answer = give(ann, item["comparison"], "left2", flags="false", rationale="it is <b>wrong</b>", seconds="3.5")
    assert answer.status_code == 200, answer.text
    row = label_rows(story, "ann")[0]
    detail = story.store.first(select(label_details))
    assert row.verdict == row.left_side
    assert abs(detail.strength) == 2
    assert (detail.strength > 0) == (row.left_side == "a")
    assert (json.loads(detail.flags), detail.rationale, row.seconds) == (["false"], "it is <b>wrong</b>", 3.5)
    event = story.store.events("helper")[-1]
    assert (event.kind, event.actor, event.payload["choice"]) == ("label.given", "ann", "left2")
    assert answer.json()["progress"]["labelled"] == 1


def test_the_same_submission_again_is_one_label(as_, story):
    """As a browser does when the first answer was lost; and the key of one label cannot be used for another."""
    ann = as_("ann")
    first = item_of(ann)["comparison"]
    assert give(ann, first).json()["saved"]["repeated"] is False
    assert give(ann, first).json()["saved"]["repeated"] is True
    assert len(label_rows(story, "ann")) == 1
    second = item_of(ann)["comparison"]
    assert second != first
    assert give(ann, second).status_code == 422


def test_the_same_submission_eight_times_at_once_is_one_label(as_, story):
    """Eight threads with one key: one row, no error."""
    ann = Actor("ann", "human")
    shown = queue.next_shown(story.store, BATCH, ann)
    outcomes = []

    def go():
        outcomes.append(queue.give(story.store, shown.item.id, ann, "equal", key="same-key-1").repeated)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] + [True] * 7
    assert len(label_rows(story, "ann")) == 1


def test_two_annotators_at_once_are_shown_different_comparisons(as_, story):
    """Sixteen leases taken by four threads: no comparison twice."""
    taken = []

    def go(name):
        actor, mine = Actor(name, "human"), []
        for _ in range(4):
            shown = queue.next_shown(story.store, BATCH, actor, mine)
            mine.append(shown.item.id)
            taken.append(shown.item.id)

    threads = [threading.Thread(target=go, args=(n,)) for n in ("ann", "bob", "cat", "dan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 16
    assert queue.next_shown(story.store, BATCH, Actor("eli", "human")) is None


def test_a_lease_ends_and_a_late_label_is_a_second_opinion(story):
    """Ann's lease runs out, bob labels, ann's label comes: both are kept."""
    ann, bob = Actor("ann", "human"), Actor("bob", "human")
    item = queue.next_shown(story.store, BATCH, ann).item.id
    with story.store.transaction() as transaction:
        transaction.execute(update(showings).values(until=time.time() - 1))
    with story.store.transaction() as transaction:  # only this one is left for bob
        transaction.execute(update(showings).where(showings.c.comparison == item).values(until=0.0))
    queue.show_again(story.store, item, bob)
    assert queue.renew(story.store, item, ann) is False
    queue.give(story.store, item, bob, "left1", key="bob-key-1")
    queue.give(story.store, item, ann, "right1", key="ann-key-1")
    assert len(story.store.rows(select(labels).where(labels.c.comparison == item))) == 2


def test_undo_is_a_new_revision_and_the_comparison_comes_back(as_, story):
    """The label stays on record, a skip follows it, the same sides are shown again; another undo has nothing to undo."""
    ann = as_("ann")
    before = item_of(ann)
    give(ann, before["comparison"])
    answer = ann.fill(f"/label/{BATCH}/undo", {"key": "undo-key-1"})
    assert answer.status_code == 200, answer.text
    again = answer.json()["item"]
    assert {k: again[k] for k in ("comparison", "left", "right")} == {k: before[k] for k in ("comparison", "left", "right")}
    assert [r.verdict for r in label_rows(story, "ann")][1:] == ["skip"]
    assert ann.fill(f"/label/{BATCH}/undo", {"key": "undo-key-2"}).status_code == 409
    assert item_of(ann)["comparison"] == before["comparison"]
    assert give(ann, before["comparison"], "right1", "key-00000002").json()["saved"]["revision"] == 3


def test_undo_goes_back_one_further_each_time_and_no_further_when_it_is_sent_again(as_, story):
    """Three labels: the third, the second; the second's request again is the same answer and stores nothing."""
    ann, given = as_("ann"), []
    for n in range(3):
        given.append(item_of(ann)["comparison"])
        assert give(ann, given[-1], key=f"key-0000000{n}").status_code == 200
    undone = [ann.fill(f"/label/{BATCH}/undo", {"key": key}) for key in ("undo-key-1", "undo-key-2", "undo-key-2")]
    assert [answer.json()["item"]["comparison"] for answer in undone] == [given[2], given[1], given[1]]
    assert [r.verdict for r in label_rows(story, "ann")][3:] == ["skip", "skip"]
    assert item_of(ann)["comparison"] in given[1:]


def test_flags_count_while_their_label_does(as_, story):
    """What an annotator flagged stands at the gate; taken back, it does not."""
    ann = as_("ann")
    item = item_of(ann)["comparison"]
    assert give(ann, item, "both-bad", flags=["false", "harmful"]).status_code == 200
    assert flags_given(story.store, counting_labels(story.store, BATCH)) == {item: ["harmful", "false"]}
    ann.fill(f"/label/{BATCH}/undo", {"key": "undo-key-1"})
    assert flags_given(story.store, counting_labels(story.store, BATCH)) == {}


def test_next_gives_another_one_and_nothing_twice(as_):
    """What is in hand is left out."""
    ann = as_("ann")
    first = item_of(ann)["comparison"]
    answer = ann.fill(f"/label/{BATCH}/next", {"without": first})
    assert answer.json()["item"]["comparison"] != first


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"choice": "skip"}, 422), ({"choice": "both-bad"}, 422), ({"choice": "best"}, 422), ({"key": "short"}, 422),
        ({"comparison": "writer.r1.0"}, 422), ({"comparison": "helper.r1.999"}, 422), ({"rationale": "x" * 5000}, 422),
        ({"rationale": "a\x00b"}, 422),
    ],
)  # fmt: skip
def test_what_is_not_a_label_is_refused_with_the_one_shape(as_, story, fields, status):
    """And leaves no row."""
    ann = as_("ann")
    answer = give(ann, **{"comparison": item_of(ann)["comparison"], **fields})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"status", "kind", "message", "remedy"}
    assert label_rows(story, "ann") == []


def test_a_closed_batch_takes_no_labels(as_, story):
    """Round 0's labels are part of a reward model already."""
    answer = as_("ann").get("/label/helper.r0", headers={"accept": "application/json"})
    assert answer.status_code == 422
    assert "closed" in answer.json()["error"]["message"]


def test_who_does_not_label_sees_no_comparison(as_):
    """An approver, an auditor and an admin are refused."""
    for name in ("eve", "max", "root"):
        assert as_(name).get(f"/label/{BATCH}", headers={"accept": "application/json"}).status_code == 403


def test_an_annotator_sees_nothing_that_tells_which_is_which(as_):
    """Gates, batches, checkpoints and the ledger are for others; the start page names no policy."""
    ann = as_("ann")
    for path in ("/gates", "/gates/writer.r1", "/batches/helper.r0", "/policies/writer", "/checkpoints/writer@2", "/ledger"):
        assert ann.get(path, headers={"accept": "application/json"}).status_code == 403
    assert ann.twin("/")["policies"] == []
    assert ann.twin("/")["waiting_for_you"][0]["href"] == f"/label/{BATCH}"


def test_second_opinions_are_offered_on_what_others_labelled(as_, story):
    """Bob is shown what ann labelled, and not what he labelled himself."""
    ann, bob = as_("ann"), as_("bob")
    comparison = item_of(ann)["comparison"]
    give(ann, comparison)
    assert bob.twin(f"/label/{BATCH}?second=true")["item"]["comparison"] == comparison
    assert ann.twin(f"/label/{BATCH}?second=true")["item"] is None


def test_without_a_script_the_form_works_too(as_, story):
    """A button posts the form; the answer leads back to the next comparison and says what was done."""
    ann = as_("ann")
    item = item_of(ann)
    answer = ann.post(
        f"/label/{BATCH}/submit", headers={"origin": BASE, "accept": "text/html"},
        data={"csrf": ann.csrf(f"/label/{BATCH}"), "comparison": item["comparison"], "choice": "equal", "key": "form-key-1"},
    )  # fmt: skip
    assert answer.status_code == 200
    assert "Saved." in answer.text
    assert label_rows(story, "ann")[0].verdict == "tie"


def test_what_the_console_writes_is_what_the_ledger_recorded(as_, story):
    """Labels, an undo and a session later, the rows still agree with the events."""
    ann = as_("ann")
    give(ann, item_of(ann)["comparison"])
    ann.fill(f"/label/{BATCH}/undo", {"key": "undo-key-1"})
    recorded = story.store.events()
    checks = {**ROW_CHECKS, **PEOPLE_CHECKS}.values()
    assert [f for check in checks for f in check(story.store, recorded)] == []
    with story.store.engine.connect() as connection:
        connection.exec_driver_sql("DROP TRIGGER label_details_no_update")
        connection.exec_driver_sql("UPDATE label_details SET rationale = 'something else'")
    assert {f.what for check in checks for f in check(story.store, recorded)} == {"its details are not those in the ledger"}
