"""What files of labels hold, and what the ledger says was left out of them."""

from __future__ import annotations

import json

import pytest

from rlback.data.preferences import read_pairs
from rlback.data.shapes import conversation_of, render_messages
from rlback.labelling import queue
from rlback.labelling.exports import export_batch
from rlback.project import Project
from rlback.records import Actor, Comparison, Completion
from tests.labelling.made import made_batch, made_campaign

ANN, OLI = Actor("ann", "human"), Actor("oli", "human")
SAID = [("user", "which?"), ("assistant", "both"), ("user", "but which?")]
MESSAGES = [{"role": role, "content": content} for role, content in SAID]


def give(project: Project, batch: str, number: int, choice: str, **fields) -> None:
    queue.show_again(project.store, f"{batch}.{number}", ANN)
    queue.give(project.store, f"{batch}.{number}", ANN, choice, key=f"key-{number:08}", **fields)


def test_a_conversation_goes_out_as_its_messages_and_comes_back_as_it_was(project: Project, tmp_path):
    """Not as one message of the user that holds the marks of the others; a prompt that is none stays one message."""
    made_campaign(project)
    sides = (Completion("the red one", (), True), Completion("the blue one", (), True))
    prompts = [render_messages(MESSAGES), "plain"]
    batch = made_batch(project, 2, comparisons=[Comparison(prompt, *sides, "cross") for prompt in prompts])
    for number in range(2):
        give(project, batch, number, "left1")
    content = export_batch(project.store, batch, "trl-conversational", OLI)
    rows = [json.loads(line) for line in content.splitlines()]
    assert [row["prompt"] for row in rows] == [MESSAGES, [{"role": "user", "content": "plain"}]]
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(content)
    assert read_pairs(file).pairs[0].prompt == prompts[0]


def test_each_answer_without_a_preference_is_counted_by_its_name(project: Project):
    """A tie is no `both bad`, and neither is a skip."""
    made_campaign(project)
    batch = made_batch(project, 5)
    choices = [("left2", {}), ("equal", {}), ("both-bad", {"flags": ["false"]}), ("both-bad", {"flags": ["private"]}),
               ("skip", {"rationale": "in Welsh"})]  # fmt: skip
    for number, (choice, fields) in enumerate(choices):
        give(project, batch, number, choice, **fields)
    export_batch(project.store, batch, "trl", OLI)
    told = [e.payload for e in project.store.events("people") if e.kind == "labels.exported"][-1]
    assert {k: told[k] for k in ("labels", "lines", "decisive", "tie", "both-bad", "skip")} == {
        "labels": 5, "lines": 1, "decisive": 1, "tie": 1, "both-bad": 2, "skip": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "prompt", ["", "plain", "Human: no mark before it", "\n\nHuman: no answer asked for", "text\n\nHuman: x\n\nAssistant:"]
)
def test_what_no_messages_render_to_is_no_conversation(prompt):
    """It would come back changed."""
    assert conversation_of(prompt) is None


@pytest.mark.parametrize("contents", [("a", "b", "c"), ("", "b", "c\n"), (" a", "\n\nb", "c: d")])
def test_messages_come_back_from_their_prompt(contents):
    """Empty contents, blanks and newlines at the ends, a system message before."""
    messages = [{"role": "system", "content": "be brief"}]
    messages += [{"role": m["role"], "content": c} for m, c in zip(MESSAGES, contents, strict=True)]
    assert conversation_of(render_messages(messages)) == messages
