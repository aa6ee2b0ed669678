"""What the page of a batch says about pace, and about people against the reward model; figures worked out by hand."""

from __future__ import annotations

import pytest

from rlback.labelling.batches import record_label
from rlback.labelling.quality import quality
from rlback.project import Project
from rlback.records import Actor
from tests.labelling.made import made_batch, made_campaign


@pytest.fixture
def batch(project: Project) -> str:
    """Six comparisons, people.r1.0 to .5."""
    made_campaign(project)
    return made_batch(project, 6)


def say(project: Project, batch: str, name: str, verdicts: str, seconds: list[float | None]) -> None:
    """Labels of comparisons 0, 1, …: `a`, `b`, `t`ie or `s`kip, each with its time."""
    words = {"a": "a", "b": "b", "t": "tie", "s": "skip"}
    for number, (letter, time) in enumerate(zip(verdicts, seconds, strict=True)):
        record_label(project.store, f"{batch}.{number}", Actor(name, "human"), words[letter], "a", time)  # type: ignore[arg-type]


def of(found: dict, name: str) -> dict:
    return next(a for a in found["annotators"] if a["annotator"] == name)


@pytest.mark.parametrize(
    ("times", "fast"),
    [
        ([1.0, 1.0, 3.9, 50.0, 1.0], True),  # median 1 under a third of the others' 12
        ([3.9] * 5, True),
        ([4.0] * 5, False),  # a third is not below a third
        ([1.0] * 4, False),  # four labels say too little
        ([1.0, 1.0, 1.0, 1.0, None], False),  # and a fifth without a time is none
    ],
)
def test_who_answers_faster_than_a_third_of_the_others_is_marked(project, batch, times, fast):
    """The others' medians are 10 and 14 seconds; the middle between them is 12."""
    say(project, batch, "bea", "aaaaa", [10.0, 2.0, 10.0, 30.0, 12.0])
    say(project, batch, "cy", "aaaaa", [14.0] * 5)
    say(project, batch, "dan", "aaaaa"[: len(times)], times)
    found = quality(project.store, batch)
    assert of(found, "dan")["fast"] is fast
    assert [of(found, name)["fast"] for name in ("bea", "cy")] == [False, False]
    assert (of(found, "bea")["median_seconds"], of(found, "cy")["median_seconds"]) == (10.0, 14.0)


def test_alone_nobody_is_fast(project, batch):
    """There is no pace to compare with."""
    say(project, batch, "dan", "aaaaaa", [0.1] * 6)
    assert of(quality(project.store, batch), "dan")["fast"] is False


def test_people_against_the_reward_model_its_surest_first(project, batch):
    """By the majority of decisive labels; a tie among people, a margin of 0 and an unknown one contradict nobody."""
    none = [None] * 6
    #                        0: against, 1: with, 2: people split, 3: against, surer, 4: margin 0, 5: not scored
    say(project, batch, "bea", "baabba", none)
    say(project, batch, "cy", "babtbb", none)
    margins = {f"{batch}.{n}": m for n, m in enumerate([0.4, 0.7, 2.0, 1.5, 0.0])}
    found = quality(project.store, batch, margins)["against_model"]
    assert [(f["comparison"], f["margin"]) for f in found] == [(f"{batch}.3", 1.5), (f"{batch}.0", 0.4)]
    assert found[0]["said"] == ["bea: b", "cy: tie"]
    assert quality(project.store, batch)["against_model"] == []


def test_how_often_an_annotator_says_what_the_reward_model_says(project, batch):
    """Decisive labels on scored comparisons alone: dan agrees on 1 and 3 of 0, 1 and 3; a tie and a skip are no answer."""
    say(project, batch, "dan", "aaabts", [None] * 6)
    margins = {f"{batch}.{n}": m for n, m in ((0, -1.0), (1, 0.2), (2, 0.0), (3, -3.0), (4, 1.0), (5, 1.0))}
    model = of(quality(project.store, batch, margins), "dan")["model"]
    assert (model["value"], model["n"]) == (pytest.approx(2 / 3), 3)
    assert of(quality(project.store, batch), "dan")["model"] is None
