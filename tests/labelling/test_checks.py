"""Hidden gold items and repeats, overlap: what annotators are shown, and that nothing is learned from it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from sqlalchemy import insert, select, text

from rlback.config import check_config
from rlback.errors import ConfigError, DataError
from rlback.labelling import queue
from rlback.labelling.batches import _row, counting_labels, open_count, record_label, stored, unlabelled, write_labels
from rlback.labelling.checks import Rules, agreed_before, answers_of, read_gold
from rlback.labelling.exports import export_batch
from rlback.labelling.quality import quality
from rlback.labelling.slots import missing, rebuild
from rlback.labelling.statements import REPEAT_AFTER
from rlback.ledger.label_tables import slots, tallies
from rlback.ledger.tables import labels
from rlback.records import Actor
from rlback.registry.verification import verify
from tests.behind import behind
from tests.conftest import changed
from tests.labelling.made import gold, made_batch, made_campaign

ANN, BOB, CY = (Actor(name, "human") for name in ("ann", "bob", "cy"))


@pytest.fixture
def kind(on_both: str) -> str:
    """Every test of this module on both databases."""
    return on_both


def work(store, batch, who, say, limit=1000):
    """Labels as the console does until nothing is left; returns what was shown, in order."""
    shown = []
    while len(shown) < limit and (one := queue.next_shown(store, batch, who)) is not None:
        verdict = say(one.item)
        choice = "equal" if verdict == "tie" else "left1" if verdict == one.left else "right1"
        queue.give(store, one.item.id, who, choice, key=f"{who.name}-{len(shown):08d}", seconds=2.0)
        shown.append(one.item.id)
    return shown


def by_answer(hidden):
    """Always a, and right on every gold item."""
    return lambda item: hidden[item.id][2] if item.id in hidden and hidden[item.id][0] == "gold" else "a"


@pytest.fixture
def watched(project):
    """60 comparisons with a fifth of gold and a fifth of repeats."""
    made_campaign(project)
    made_batch(project, 60, rules=Rules(1, 0.2, 0.2), items=gold(60), practice=gold(3))
    return project


def test_checks_are_shown_in_their_share_and_tell_nothing(watched):
    """About a fifth each of what ann is shown; a repeat comes after its original, with others in between."""
    store, batch = watched.store, "people.r1"
    hidden = answers_of(store, batch)
    assert Counter(kind for kind, _, _ in hidden.values()) == {"gold": 12, "repeat": 36}
    shown = work(store, batch, ANN, by_answer(hidden))
    kinds = Counter(hidden[id_][0] if id_ in hidden else "regular" for id_ in shown)
    assert kinds["regular"] == 60
    assert 6 <= kinds["gold"] <= 12
    assert 6 <= kinds["repeat"] <= 36
    for place, id_ in enumerate(shown):
        if id_ in hidden and hidden[id_][0] == "repeat":
            assert place - shown.index(hidden[id_][1]) > REPEAT_AFTER
    assert len(set(shown)) == len(shown)
    positions = sorted(int(id_.rpartition(".")[2]) for id_ in hidden)
    assert positions[0] < 20
    assert positions[-1] > 50


def test_no_check_is_learned_from(watched):
    """Neither counted, nor waited for, nor frozen, nor exported as a pair; verify knows what they are."""
    store, batch = watched.store, "people.r1"
    hidden = answers_of(store, batch)
    shown = work(store, batch, ANN, by_answer(hidden))
    assert open_count(store, batch) == 0
    counted = counting_labels(store, batch)
    assert len(counted) == 60 < len(shown)
    assert not {label.comparison for label in counted} & hidden.keys()
    lines: list[bytes] = []
    write_labels(store, [batch], lines.append)
    assert len(lines) == 60
    assert len(export_batch(store, batch, "trl", ANN).splitlines()) == 60
    raw = [json.loads(line) for line in export_batch(store, batch, "raw", ANN).splitlines()]
    assert Counter(line["source"] for line in raw)["gold"] == len([i for i in shown if i in hidden and hidden[i][0] == "gold"])
    assert not any(line["counts"] for line in raw if line["comparison"] in hidden)
    assert verify(watched, None).findings == []


def test_progress_moves_by_one_whatever_was_labelled(watched):
    """Otherwise the bar would say which comparisons are checks."""
    store, batch = watched.store, "people.r1"
    for n in range(1, 25):
        work(store, batch, BOB, lambda item: "b", limit=1)
        found = queue.progress(store, batch, BOB)
        assert (found.labelled, found.mine, found.mine_today) == (n, n, n)
        store.rows(select(slots))  # and a key of its own for the next one
        queue_keys(store)
    assert found.size == 100  # 60 regular ones are three fifths of it


def queue_keys(store):
    """Submissions of `work` begin anew with each call; this makes their keys free again."""
    with behind(store, "label_details") as connection:
        connection.execute(text("UPDATE label_details SET key = 'used-' || label WHERE key NOT LIKE 'used-%'"))


def test_the_table_says_who_knows_the_answers(watched):
    """Ann is right on gold and agrees with herself; bob says b to everything, and his interval says how sure that is."""
    store, batch = watched.store, "people.r1"
    hidden = answers_of(store, batch)
    work(store, batch, ANN, by_answer(hidden), limit=45)
    queue_keys(store)
    work(store, batch, BOB, lambda item: "b", limit=45)
    rows = {row["annotator"]: row for row in quality(store, batch)["annotators"]}
    assert rows["ann"]["gold"]["value"] == rows["ann"]["self"]["value"] == 1.0
    assert rows["ann"]["gold"]["n"] >= 2
    assert rows["bob"]["gold"]["value"] < 1
    assert rows["bob"]["gold"]["low"] < rows["bob"]["gold"]["high"]
    assert rows["bob"]["self"] is None or rows["bob"]["self"]["value"] == 1.0


def test_each_comparison_is_for_as_many_annotators_as_configured(project):
    """Overlap 2: nobody twice, two each, done when both have; a label taken back opens its place again."""
    made_campaign(project)
    store, batch = project.store, made_batch(project, 12, rules=Rules(overlap=2))
    assert work(store, batch, ANN, lambda item: "a") != []
    assert open_count(store, batch) == 12
    half = work(store, batch, BOB, lambda item: "a", limit=6)
    assert open_count(store, batch) == 6
    queue.undo(store, batch, BOB, "undo-key-1")
    assert open_count(store, batch) == 7
    rest = work(store, batch, CY, lambda item: "b")
    assert len(rest) == 7
    assert set(rest) | set(half) == {item.id for item in stored(store, batch)}
    assert queue.progress(store, batch, CY).size == 24
    assert unlabelled(store, batch, "dan") == stored(store, batch)


def test_counts_beside_the_labels_are_those_of_the_labels(watched):
    """After labels, an undo and a quarantine: what was kept up by and by is what a rebuild makes."""
    from rlback.registry.quarantine import put_in

    store, batch = watched.store, "people.r1"
    work(store, batch, ANN, lambda item: "a", limit=30)
    work(store, batch, BOB, lambda item: "b", limit=30)
    queue.undo(store, batch, BOB, "undo-key-1")
    record_label(store, stored(store, batch)[0].id, CY, "tie", "a")

    def kept():
        return sorted(map(tuple, store.rows(select(slots)))), sorted(map(tuple, store.rows(select(tallies))))

    def anew():
        with store.transaction() as transaction:
            rebuild(transaction, batch)
        return kept()

    assert kept() == anew()
    assert {row.comparison: row.missing for row in store.rows(select(slots))} == missing(store, batch)
    put_in(store, "ann", CY, "noise", batch=batch)
    assert kept() == anew()
    assert open_count(store, batch) >= 60 - 30


def test_a_label_slipped_in_as_a_simulated_one_is_named(project):
    """Nothing was simulated in a batch that people label, whatever a row says."""
    batch = made_batch(project, 2, name=made_campaign(project))
    assert verify(project, None).findings == []
    with behind(project.store) as connection:
        values = _row(f"{batch}.0", Actor("eve", "simulated"), "a", "a", 1, None)
        connection.execute(insert(labels).values(**values))
    (found,) = verify(project, None).findings
    assert found.where == f"labels of {batch}"


def test_gold_may_come_from_what_two_agreed_on(project):
    """Both said a, or both b; a tie, or one voice, is no gold. Who labelled it then is not shown it as gold."""
    made_campaign(project)
    store, before = project.store, made_batch(project, 30, rules=Rules(overlap=2), round_=0)
    work(store, before, ANN, lambda item: "ab"[item.position % 2])
    work(store, before, BOB, lambda item: "tie" if item.position < 5 else "ab"[item.position % 2])
    items = agreed_before(store, "people")
    assert len(items) == 25
    assert {item.of: item.answer for item in items} == {f"{before}.{n}": "ab"[n % 2] for n in range(5, 30)}
    batch = made_batch(project, 30, rules=Rules(1, 0.3, 0.0), items=items)
    hidden = answers_of(store, batch)
    queue_keys(store)
    assert not set(work(store, batch, ANN, lambda item: "a", limit=20)) & hidden.keys()
    assert set(work(store, batch, CY, lambda item: "a", limit=20)) & hidden.keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p", "a": "x", "b": "y", "answer": "left"}', "line 2: answer must be one of"),
        ('{"prompt": "p", "a": "x", "answer": "a"}', "line 2: missing: 'b'"),
        ('{"prompt": "p", "a": 3, "b": "y", "answer": "a"}', "line 2: a must be text"), ("{", "line 2: not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_gold_file_is_named_with_its_line(tmp_path, line, message):
    """And a right one is read."""
    file = tmp_path / "gold.jsonl"
    good = '{"prompt": "p", "a": "x", "b": "y", "answer": "a", "why": "<b>because</b>"}\n'
    file.write_text(good)
    assert [(i.answer, i.why) for i in read_gold(file).items] == [("a", "<b>because</b>")]
    file.write_text(good + line + "\n")
    with pytest.raises(DataError, match=r"gold\.jsonl") as refused:
        read_gold(file)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "labels",
    [
        {"annotators": "simulated", "overlap": 2}, {"annotators": "human", "practice": 2}, {"annotators": "human", "overlap": 0},
        {"annotators": "human", "gold_share": 0.4, "repeat_share": 0.3},
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(labels):
    """Named when the configuration is read."""
    with pytest.raises(ConfigError, match="labels"):
        check_config(changed(labels=labels, gate={"approver": "human"}), "x")
