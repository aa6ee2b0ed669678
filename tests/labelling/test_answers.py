"""What an environment wrote of a completion: told from the policy's own, stored, and shown apart."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from rlback.campaign import machine
from rlback.config import check_config
from rlback.environments.episodes import replay
from rlback.environments.segments import segments
from rlback.labelling.batches import completion_tree, stored, stored_one
from rlback.labelling.display import completion
from rlback.ledger.tables import comparisons
from rlback.models.tokenizers import answers_in, decode, encode_completion, encode_prompt, train_byte_bpe, word_level
from rlback.records import Actor, Comparison, Completion
from rlback.web.turns import shown_completion
from rlback.worlds.segments_world import SEGMENTS
from tests.conftest import changed
from tests.labelling.made import made_batch, made_campaign

#: "2+2 = 4. So 4": the tool wrote " = 4" as tokens 1 to 3.
TOLD = Completion("2+2 = 4. So 4", (9, 8, 7, 6, 5), True, ((1, 3, 3, 7),))


def test_runs_of_tokens_that_are_not_the_policys():
    """Words: the text of a run stands where it says; an end token that the environment wrote has no text."""
    tokenizer = word_level(("north", "@n", "stay", "@mid"))
    ids = encode_completion(tokenizer, "north @n stay @mid")
    text = decode(tokenizer, ids)
    found = answers_in(tokenizer, ids, [True, False, True, False, False], text)
    assert [answer[:2] for answer in found] == [(1, 2), (3, 5)]
    assert [text[first:last].strip() for _, _, first, last in found] == ["@n", "@mid"]
    assert answers_in(tokenizer, ids, [True] * 5, text) == ()


def test_a_run_that_cuts_a_character_in_two_keeps_the_text_whole():
    """Bytes: three tokens may hold one euro sign; the run begins at the sign, never inside or past it."""
    tokenizer = train_byte_bpe(iter(["abc def " * 20]), 300)
    ids = encode_completion(tokenizer, "abc €!")[:-1]
    text = decode(tokenizer, ids)
    assert text == "abc €!"
    for cut in range(len(ids) + 1):
        answers = answers_in(tokenizer, ids, [True] * cut + [False] * (len(ids) - cut), text)
        for first_token, _, first, last in answers:
            assert (first_token, last) == (cut, len(text))
            assert first <= text.index("€") or decode(tokenizer, ids[:cut]) == text[:first]


def test_answers_are_stored_with_the_completion_and_old_rows_still_read(project):
    """Without answers the stored text is what it was before there were any, byte for byte."""
    made_campaign(project)
    plain = Completion("no tool", (1, 2), True)
    batch = made_batch(project, 0, comparisons=[Comparison("q?", TOLD, plain, "cross")])
    row = project.store.first(select(comparisons))
    assert row.b == '{"finished":true,"ids":[1,2],"text":"no tool"}'
    assert json.loads(row.a)["answers"] == [[1, 3, 3, 7]]
    item = stored_one(project.store, f"{batch}.0").comparison
    assert (item.a, item.b) == (TOLD, plain)
    assert "answers" not in completion_tree(plain)


def test_a_tools_turn_is_shown_apart():
    """Nested, so that a mark inside it is a mark; at a terminal in brackets."""
    assert shown_completion(TOLD.text, TOLD.answers)["pieces"] == [
        ["text", "2+2"], ["tool", [["text", " = 4"]]], ["text", ". So 4"]
    ]  # fmt: skip
    assert completion(TOLD.text, TOLD.answers, TOLD.finished, 100) == "2+2⟦tool:  = 4⟧. So 4"
    hidden = shown_completion("a\u202eb", [(0, 1, 1, 2)])
    assert hidden == {"pieces": [["text", "a"], ["tool", [["mark", "U+202E"]]], ["text", "b"]], "left": 0}


@pytest.mark.parametrize(
    ("answers", "limit", "shown", "left"),
    [
        ([(0, 9, 2, 99)], 20, ["ab", "[cdef]"], 0),  # past the end
        ([(0, 1, 4, 2)], 20, ["abcd", "ef"], 0),  # backwards: no turn
        ([(0, 1, 1, 4)], 3, ["a", "[bc]"], 3),  # the cap goes through it
        ([(0, 1, 1, 2), (1, 2, 2, 3)], 20, ["a", "[b]", "[c]", "def"], 0),
    ],
)
def test_what_does_not_fit_the_text_loses_none_of_it(answers, limit, shown, left):
    found = shown_completion("abcdef", answers, limit)
    texts = [f"[{piece[0][1]}]" if kind == "tool" else piece for kind, piece in found["pieces"]]
    assert (texts, found["left"]) == (shown, left)


def test_a_campaign_in_a_world_that_answers_stores_what_it_said(project):
    """The island answers every step with the place: whose word is whose is known as the batch is made."""
    config = check_config(
        changed(
            name="walks", policy="walks", source={"world": "segments"}, rounds=1,
            labels={"annotators": "human", "initial": 4}, gate={"approver": "human"},
        ), "walks",
    )  # fmt: skip
    name = machine.start(project, config, Actor("ada", "human"))
    due = machine.advance(project, name)
    assert due.what == "labels"
    tokenizer = word_level(SEGMENTS.vocabulary)
    for item in stored(project.store, due.subject):
        for side in (item.comparison.a, item.comparison.b):
            # By replay, since a policy that has not learnt much writes places itself.
            replayed = replay(segments(tokenizer), encode_prompt(tokenizer, item.comparison.prompt), side.ids)
            said = [place for first, last, _, _ in side.answers for place in range(first, last)]
            assert said == [place for place, own in enumerate(replayed.mask) if not own]
            words = [side.text[first:last].split() for _, _, first, last in side.answers]
            assert words == [decode(tokenizer, side.ids[first:last]).split() for first, last, _, _ in side.answers]
