"""Labels out of and into files: all or nothing, attributed, once."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from rlback.data.preferences import read_pairs
from rlback.errors import DataError
from rlback.labelling import queue
from rlback.labelling.batches import counting_labels, open_count
from rlback.labelling.exports import export_batch
from rlback.labelling.imports import import_labels, list_imports
from rlback.ledger.tables import comparisons, labels
from rlback.records import Actor
from rlback.registry.verification import verify
from tests.behind import behind
from tests.labelling.made import comparison, made_batch, made_campaign

OLI, ANN = Actor("oli", "human"), Actor("ann", "human")
DATA = {"prompt": "p", "answer1": "x", "answer2": "y"}
NASTY = "<script>alert(1)</script>\u202e{{7*7}}=cmd|' /C calc'!A0"


@pytest.fixture
def kind(on_both: str) -> str:
    """Every test of this module on both databases."""
    return on_both


@pytest.fixture
def people(project):
    """A campaign with an open batch of six comparisons, the first with a text that tries things."""
    made_campaign(project)
    items = [comparison(0, prompt=NASTY), *(comparison(i) for i in range(1, 6))]
    made_batch(project, 6, comparisons=items)
    return project


def written(tmp_path, rows, name="labels.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def verdicts(project, batch="people.r1"):
    return [(x.comparison, x.annotator, x.verdict) for x in counting_labels(project.store, batch)]


def say(project):
    """One of each kind of answer by ann."""
    for n, choice in enumerate(("left1", "right2", "equal", "both-bad", "skip")):
        shown = queue.next_shown(project.store, "people.r1", ANN)
        flags = ["harmful"] if choice == "both-bad" else []
        queue.give(project.store, shown.item.id, ANN, choice, flags=flags, rationale="why", key=f"key-0000000{n}", seconds=3.0)


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
def test_what_goes_out_to_another_tool_comes_back_as_it_was(people, tmp_path, form):
    """Another person answers like ann there: the same verdicts on a and b, whichever side stood left."""
    say(people)
    out = export_batch(people.store, "people.r1", form, OLI)
    file = tmp_path / "tasks.json"
    file.write_bytes(out.replace(b'"ann"', b'"zoe"'))
    done = import_labels(people.store, file, "people", OLI)
    assert done.form == form
    assert done.batch == ""
    of = {name: [(c, v) for c, a, v in verdicts(people) if a == name] for name in ("ann", "zoe")}
    assert of["zoe"] == of["ann"]
    assert len(of["zoe"]) == 5
    expected = {"tie": 1, "both bad": 1, "skip": 1}
    assert {k: v for k, v in done.counts.items() if k in expected} == expected
    assert done.counts["without a label"] == 1
    assert sum(done.counts.get(side, 0) for side in "ab") == 2
    event = next(e for e in people.store.events("people") if e.kind == "labels.imported")
    assert (event.actor, event.payload["labels"], event.payload["file"]) == ("oli", 5, done.sha256)
    assert verify(people, None).findings == []


def test_in_exported_tasks_neither_side_is_always_left(people):
    """Otherwise the candidate would stand on one side."""
    tasks = json.loads(export_batch(people.store, "people.r1", "label-studio", OLI))
    assert {task["data"]["answer1"].split()[1] for task in tasks} == {"one", "two"}
    assert not any("cross" in json.dumps(task) for task in tasks)


def test_preferences_make_a_batch_of_their_own(people, tmp_path):
    """Plain and conversational rows, ties and both bad; they wait at no gate and are counted from the next snapshot on."""
    rows = [
        {"prompt": "p1", "chosen": "good", "rejected": "bad", "annotator": "zoe"},
        {"prompt": [{"role": "user", "content": "p2"}], "chosen": [{"role": "assistant", "content": "good"}],
         "rejected": [{"role": "assistant", "content": "bad"}]},
        {"prompt": "p3", "a": "x", "b": "y", "label": "tie"}, {"prompt": "p3", "a": "x", "b": "y", "label": "both_bad"},
        {"prompt": NASTY, "chosen": NASTY + "1", "rejected": NASTY + "2"},
    ]  # fmt: skip
    done = import_labels(people.store, written(tmp_path, rows), "people", OLI, annotator="archive")
    assert (done.form, done.batch, done.labels) == ("preferences", "people.r0i1", 5)
    assert done.counts["tie"] == done.counts["both bad"] == 1
    held = {row.id: row for row in people.store.rows(select(comparisons).where(comparisons.c.batch == done.batch))}
    chosen = {
        held[c].prompt: json.loads(getattr(held[c], v))["text"]
        for c, _, v in verdicts(people, done.batch) if v in ("a", "b")
    }  # fmt: skip
    assert chosen["p1"] == "good"
    assert chosen[NASTY] == NASTY + "1"
    assert {a for _, a, _ in verdicts(people, done.batch)} == {"zoe", "archive"}
    assert {row.source for row in held.values()} == {"given"}
    assert open_count(people.store, "people.r1") == 6
    with pytest.raises(DataError, match="was imported"):
        queue.next_shown(people.store, done.batch, ANN)
    assert verify(people, None).findings == []


def test_the_same_file_again_is_refused_and_says_so(people, tmp_path):
    """By its digest; and a file in which nothing is new is refused too."""
    file = written(tmp_path, [{"prompt": "p", "chosen": "x", "rejected": "y"}])
    import_labels(people.store, file, "people", OLI, annotator="zoe")
    with pytest.raises(DataError, match="import 1 by oli"):
        import_labels(people.store, file, "people", OLI, annotator="zoe")
    say(people)
    ours = tmp_path / "ours.jsonl"
    ours.write_bytes(export_batch(people.store, "people.r1", "raw", OLI))
    with pytest.raises(DataError, match="here already"):
        import_labels(people.store, ours, "people", OLI)
    assert [i["number"] for i in list_imports(people.store)] == [1]


def test_a_raw_export_of_another_project_comes_in_whole(people, tmp_path):
    """Verdicts, both bad, flags and rationale; what did not count there is counted and left out."""
    say(people)
    queue.undo(people.store, "people.r1", ANN, "undo-key-1")
    lines = [json.loads(line) for line in export_batch(people.store, "people.r1", "raw", OLI).splitlines()]
    for line in lines:
        line["comparison"], line["prompt"] = "", line["prompt"] + " (elsewhere)"
    done = import_labels(people.store, written(tmp_path, lines), "people", OLI)
    assert done.counts["not counting where it comes from"] == 1
    assert done.labels == 5
    again = [json.loads(line) for line in export_batch(people.store, done.batch, "raw", OLI).splitlines()]

    def content(those):
        return sorted(
            (x["prompt"], x["verdict"], x["choice"] == "both-bad", x["flags"], x["rationale"], x["annotator"])
            for x in those if x["counts"]
        )  # fmt: skip

    assert [row[1:] for row in content(again)] == [row[1:] for row in content(lines)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "x"}, "line 2: missing: column 'rejected'"),
        ({"prompt": "p", "chosen": "x", "rejected": 3}, "line 2: rejected must be text"),
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, "line 2: chosen and rejected are the same"),
        ({"prompt": "p", "chosen": "x", "rejected": "y\x00"}, "line 2: rejected holds a NUL"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "y"}, "line 2: chosen holds half"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "a\nb"}, "line 2: 'a"),
        ({"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "rlback"}, "line 2: 'rlback' is a name of the"),
    ],
)  # fmt: skip
def test_one_wrong_row_and_nothing_is_stored(people, tmp_path, row, message):
    """File and line are named; the good row before it is not kept."""
    before = people.store.event_count()
    file = written(tmp_path, [{"prompt": "p", "chosen": "x", "rejected": "y"}, row])
    with pytest.raises(DataError) as refused:
        import_labels(people.store, file, "people", OLI, annotator="zoe")
    assert f"{file}, {message}" in str(refused.value)
    assert people.store.event_count() == before
    assert people.store.rows(select(labels)) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"data": {"prompt": "p", "answer1": "x"}, "annotations": []}, "missing: 'answer2'"),
        ({"data": DATA, "annotations": [{"completed_by": 1, "result": []}]}, "no result"),
        ({"data": DATA, "annotations": [{"was_cancelled": True}]}, "completed_by"),
        ({"fields": {"prompt": "p", "response-1": "x", "response-2": "y"},
          "responses": {"preference": [{"value": "third", "user_id": "u"}]}}, "value must be one of"),
        ({"prompt": "p", "a": "x", "b": "y", "verdict": "c", "annotator": "zoe"}, "verdict must be"),
        ({"prompt": "p", "chosen": "x", "rejected": "y"}, "nothing says who labelled"),
    ],
)  # fmt: skip
def test_what_other_tools_cannot_have_written_is_named(people, tmp_path, row, message):
    """Each form says what it misses."""
    with pytest.raises(DataError, match=r"line 1: ") as refused:
        import_labels(people.store, written(tmp_path, [row]), "people", OLI)
    assert message in str(refused.value)


def test_labels_of_label_studio_and_argilla_without_our_ids(people, tmp_path):
    """A number as annotator, a ranking as answer: they make a batch, and who said what is kept."""
    rows = [
        {"data": {"prompt": "p", "answer1": "x", "answer2": "y"},
         "annotations": [
             {"completed_by": 7, "lead_time": 2.5, "result": [{"type": "pairwise", "value": {"selected": "right"}}]}
         ]}
    ]  # fmt: skip
    done = import_labels(people.store, written(tmp_path, rows), "people", OLI)
    ranked = [
        {"fields": {"prompt": "q", "response-1": "x", "response-2": "y"}, "responses": {"preference": [
            {"user_id": "u1", "value": [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]}]}}
    ]  # fmt: skip
    second = import_labels(people.store, written(tmp_path, ranked, "r.jsonl"), "people", OLI)
    assert (done.batch, second.batch) == ("people.r0i1", "people.r0i2")
    for batch, who in ((done.batch, "label-studio-7"), (second.batch, "u1")):
        raw = [json.loads(line) for line in export_batch(people.store, batch, "raw", OLI).splitlines()]
        assert [(x["annotator"], x[x["verdict"]]) for x in raw] == [(who, "y")]


def test_altered_imports_are_found(people, tmp_path):
    """A verdict that somebody turns round behind the ledger's back."""
    file = written(tmp_path, [{"prompt": "p", "chosen": "x", "rejected": "y"}])
    import_labels(people.store, file, "people", OLI, annotator="zoe")
    with behind(people.store, "labels") as connection:
        connection.exec_driver_sql("UPDATE labels SET verdict = CASE verdict WHEN 'a' THEN 'b' ELSE 'a' END")
    assert [(f.where, f.what) for f in verify(people, None).findings] == [
        ("labels of import 1", "they are not those in the ledger")
    ]


def test_pairs_go_out_and_in_again(people, tmp_path):
    """What is exported for TRL is read by our reader, and counts say what was left out."""
    say(people)
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(export_batch(people.store, "people.r1", "trl-conversational", OLI))
    assert len(read_pairs(file).pairs) == 2
    event = people.store.events("people")[-1]
    assert (event.kind, event.actor) == ("labels.exported", "oli")
    assert {k: event.payload[k] for k in ("decisive", "tie", "both-bad", "skip", "labels", "checks")} == {
        "decisive": 2, "tie": 1, "both-bad": 1, "skip": 1, "labels": 5, "checks": 0,
    }  # fmt: skip
