"""The guideline's versions, the one each label holds, and labels as files."""

from __future__ import annotations

import json

import pytest

from rlback.data.preferences import read_pairs
from tests.web.test_labelling import BATCH, give, item_of


def save(browser, text, after):
    return browser.fill("/guideline", {"text": text, "after": str(after)})


def test_each_label_holds_the_version_in_force(as_, story):
    """None yet, then the first, then the second."""
    ann, eve = as_("ann"), as_("eve")
    for n in range(3):
        if n:
            assert save(eve, f"Version {n}: the shorter of two good answers wins.", n - 1).json() == {"version": n}
        give(ann, item_of(ann)["comparison"], key=f"key-{n:08}")
    lines = [json.loads(line) for line in eve.fill(f"/batches/{BATCH}/export", {"form": "raw"}).text.splitlines()]
    assert sorted(line["guideline"] for line in lines) == [0, 1, 2]
    assert "Guideline v2" in ann.get(f"/label/{BATCH}").text
    assert story.store.events("guideline")[-1].actor == "eve"


def test_nobody_writes_over_a_version_they_have_not_read(as_):
    """Two people start from version 0: the second is told."""
    assert save(as_("eve"), "one", 0).status_code == 200
    answer = save(as_("root"), "two", 0)
    assert answer.status_code == 422
    assert "meanwhile" in answer.json()["error"]["message"]
    assert save(as_("root"), "one", 1).status_code == 422


@pytest.mark.parametrize("text", ["", "   ", "x" * 20_001])
def test_a_guideline_has_a_length(as_, text):
    """Neither none nor any."""
    assert save(as_("eve"), text, 0).status_code == 422


def test_annotators_read_and_do_not_write(as_):
    """And markup in it is text."""
    save(as_("eve"), "<script>alert(1)</script>\u202e", 0)
    page = as_("ann").get("/guideline").text
    assert "&lt;script&gt;" in page
    assert "⟦U+202E⟧" in page
    assert save(as_("ann"), "mine", 1).status_code == 403


def test_pairs_are_exported_as_they_are_read_again(as_, story, tmp_path):
    """Both TRL shapes hold the decisive labels, and `rlback run --pairs` reads what was written."""
    eve = as_("eve")
    raw = [json.loads(line) for line in eve.fill("/batches/helper.r0/export", {"form": "raw"}).text.splitlines()]
    decisive = [line for line in raw if line["counts"] and line["verdict"] in ("a", "b")]
    whole = [line for line in decisive if line["a"] and line["b"]]
    for form in ("trl", "trl-conversational"):
        answer = eve.fill("/batches/helper.r0/export", {"form": form})
        assert answer.status_code == 200, answer.text
        file = tmp_path / f"{form}.jsonl"
        file.write_bytes(answer.content)
        read = read_pairs(file)
        assert len(read.pairs) == len(whole) > 0
        if form == "trl":
            sides = [(line["prompt"], line[line["verdict"]]) for line in whole]
            assert [(p.prompt, p.chosen) for p in read.pairs] == sides
    told = [e.payload for e in story.store.events("helper") if e.kind == "labels.exported"]
    assert [t["form"] for t in told] == ["raw", "trl", "trl-conversational"]
    assert told[1]["decisive"] == len(decisive)
    assert told[1]["lines"] == len(whole) == told[1]["decisive"] - told[1]["empty"]


def test_an_undone_label_is_in_the_raw_file_only(as_):
    """Both revisions are there; the pairs are without it."""
    ann, eve = as_("ann"), as_("eve")
    give(ann, item_of(ann)["comparison"])
    ann.fill(f"/label/{BATCH}/undo", {"key": "undo-key-1"})
    raw = [json.loads(line) for line in eve.fill(f"/batches/{BATCH}/export", {"form": "raw"}).text.splitlines()]
    assert [(line["choice"], line["counts"]) for line in raw] == [("left1", False), ("undo", True)]
    assert eve.fill(f"/batches/{BATCH}/export", {"form": "trl"}).text == ""


def test_who_may_not_look_exports_nothing(as_):
    """An annotator, and forms that are none."""
    assert as_("ann").fill(f"/batches/{BATCH}/export").status_code == 403
    assert as_("eve").fill(f"/batches/{BATCH}/export", {"form": "xlsx"}).status_code == 422
    assert as_("eve").fill("/batches/none/export").status_code == 404


def test_the_terminal_exports_the_same(story, as_, monkeypatch, capsys):
    """`rlback export` gives the bytes that the page gives."""
    from rlback.__main__ import main

    monkeypatch.chdir(story.root)
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    assert main(["export", "helper.r0", "--form", "trl", "--as", "eve"]) == 0
    assert capsys.readouterr().out == as_("eve").fill("/batches/helper.r0/export", {"form": "trl"}).text
