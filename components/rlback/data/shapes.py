"""From one row of a preference file to a prompt and two completions, whichever way the row writes them.

Column names and their meaning follow the dataset formats of TRL (explicit and implicit prompt, plain and
conversational), the whole dialogues of hh-rlhf, and labelled comparisons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlback.data.formats import RowProblem, kind_of

Message = Mapping[str, str]
Render = Callable[[Sequence[Message]], str]
Outcome = Literal["pair", "tie", "both_bad", "skip", "prompts_differ"]

UNDERSTOOD = (
    "{chosen, rejected} whole dialogues or message lists; {prompt, chosen, rejected} texts or message lists; "
    "{prompt, a, b, label}; {conversation_a, conversation_b, winner}"
)
#: Columns that carry a row's shape, of which the first set present decides.
SHAPES = (
    ("chosen", "rejected"),
    ("prompt", "a", "b", "label"),
    ("conversation_a", "conversation_b", "winner"),
)
SHAPE_COLUMNS = frozenset(name for shape in SHAPES for name in shape) | {"prompt"}

#: More than this is no weight but a mistake, and in fp32 sums it leaves nothing of the others.
MOST_WEIGHT = 1_000_000

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
_TURN = re.compile(r"\n\n(Human|Assistant|System): ")
_LABELS: dict[str, tuple[Outcome, bool]] = {  # label -> outcome, and whether a is chosen
    "a": ("pair", True),
    "model_a": ("pair", True),
    "b": ("pair", False),
    "model_b": ("pair", False),
    "tie": ("tie", True),
    "both_bad": ("both_bad", True),
    "tie (bothbad)": ("both_bad", True),
    "skip": ("skip", True),
}


@dataclass(frozen=True)
class Parsed:
    """A row understood. `opening` is the first turn of the prompt: rows of one conversation share it."""

    shape: str
    outcome: Outcome
    prompt: str
    chosen: str
    rejected: str
    opening: str


def render_messages(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for tokenizers without a chat template.

    Each message becomes "\\n\\nHuman: ...", "\\n\\nAssistant: ..." or "\\n\\nSystem: ...". Where the last one
    is not the assistant's, "\\n\\nAssistant:" follows, so that the text is a prompt. A single assistant
    message is a completion and renders to its content. Contents are kept as they are: one that itself holds
    such a mark reads as a turn.
    """
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return messages[0]["content"]
    text = "".join(f"\n\n{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)
    return text if messages and messages[-1]["role"] == "assistant" else text + ASSISTANT


def conversation_of(prompt: str) -> list[Message] | None:
    """The messages that `render_messages` makes into this prompt; None where there are none that it makes into exactly it."""
    roles = {speaker: role for role, speaker in _SPEAKERS.items()}
    before, *parts = _TURN.split(prompt.removesuffix(ASSISTANT))
    messages: list[Message] = [
        {"role": roles[speaker], "content": said} for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return messages if messages and not before and render_messages(messages) == prompt else None


def shape_columns_missing(columns: Collection[str]) -> str | None:
    """What to say where `columns` make up none of the understood shapes, else None."""
    if any(all(name in columns for name in shape) for shape in SHAPES):
        return None
    present = set(columns)
    nearest = max(SHAPES, key=lambda shape: len(present.intersection(shape)) / len(shape))
    missing = ", ".join(repr(name) for name in nearest if name not in present)
    here = ", ".join(repr(name[:40]) for name in list(columns)[:20]) or "none"
    return f"missing: column {missing}; columns here: {here}; rows understood: {UNDERSTOOD}"


def parse_row(row: Mapping[str, Any], render: Render, max_chars: int) -> Parsed:
    """Understand one row.

    Raises `RowProblem` for a missing column, a wrong type, a text that is empty, too long or not storable
    (NUL, lone surrogate), and for completions that are the same text.
    """
    complaint = shape_columns_missing(row)
    if complaint:
        raise RowProblem(complaint, remedy="rename the columns")
    if "chosen" in row and "rejected" in row:
        parsed = _two_sides(row, "chosen", "rejected", render, max_chars)
    elif "label" in row and "prompt" in row:
        parsed = _labelled(row, "a", "b", "label", render, max_chars)
    else:
        without_prompt = {name: value for name, value in row.items() if name != "prompt"}
        parsed = _labelled(without_prompt, "conversation_a", "conversation_b", "winner", render, max_chars)
    if parsed.outcome == "pair":
        _check_pair(parsed)
    return parsed


def _check_pair(parsed: Parsed) -> None:
    for name in ("prompt", "chosen", "rejected"):
        if not getattr(parsed, name).strip():
            raise RowProblem(f"{name} is empty")
    # White space at the ends is no reason to prefer a text.
    if parsed.chosen.strip() == parsed.rejected.strip():
        raise RowProblem("chosen and rejected are the same text")


def _labelled(row: Mapping[str, Any], a: str, b: str, column: str, render: Render, max_chars: int) -> Parsed:
    label = row[column]
    if not isinstance(label, str) or label not in _LABELS:
        raise RowProblem(f"{column} must be one of {', '.join(map(repr, _LABELS))}, not {str(label)[:40]!r}")
    outcome, a_chosen = _LABELS[label]
    first, second = (a, b) if a_chosen else (b, a)
    parsed = _two_sides(row, first, second, render, max_chars)
    return parsed if outcome == "pair" else replace(parsed, outcome=outcome)


def _two_sides(row: Mapping[str, Any], better: str, worse: str, render: Render, max_chars: int) -> Parsed:
    """The row's prompt and its two sides, named by their columns."""

    def text(name: str, value: Any) -> str:
        return storable(name, value, max_chars)

    prompt, chosen, rejected = row.get("prompt"), row[better], row[worse]
    lists = isinstance(chosen, list), isinstance(rejected, list)
    if lists[0] != lists[1]:
        raise RowProblem(f"one of {better} and {worse} is a message list and the other is not")
    if "prompt" in row and not isinstance(prompt, str | list):
        raise RowProblem(f"prompt must be text or a message list, not {kind_of(prompt)}")

    if lists[0] and not isinstance(prompt, list):
        one, other = (messages_of(name, row[name], max_chars) for name in (better, worse))
        return _whole_conversations(one, other, prompt, (better, worse), render, max_chars)
    if lists[0]:
        replies = [_one_reply(name, row[name], render, max_chars) for name in (better, worse)]
    else:
        replies = [text(better, chosen), text(worse, rejected)]
    if isinstance(prompt, list):
        shape = "explicit prompt, conversational"
        rendered, opening = _conversation(messages_of("prompt", prompt, max_chars), render, max_chars)
    elif isinstance(prompt, str):
        shape, rendered = "explicit prompt, plain", text("prompt", prompt)
        opening = _first_human_turn(rendered)
    else:
        return _whole_dialogues(replies, (better, worse))
    return Parsed(shape, "pair", rendered, replies[0], replies[1], opening)


def _conversation(messages: Sequence[Message], render: Render, max_chars: int) -> tuple[str, str]:
    """A message list that ends before the assistant's turn, rendered, and its first user message."""
    if not messages:
        raise RowProblem("prompt is empty")
    if messages[-1]["role"] == "assistant":
        raise RowProblem("the prompt's last message is the assistant's; it must be the user's")
    opening = next((m["content"] for m in messages if m["role"] == "user"), messages[0]["content"])
    if not any(m["content"].strip() for m in messages):
        raise RowProblem("prompt is empty")
    return storable("prompt", render(messages), max_chars), opening


def _one_reply(name: str, value: Any, render: Render, max_chars: int) -> str:
    messages = messages_of(name, value, max_chars)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise RowProblem(f"with a prompt of its own, {name} must be one assistant message")
    return messages[0]["content"]


def _whole_conversations(
    one: Sequence[Message],
    other: Sequence[Message],
    prompt: str | None,
    names: tuple[str, str],
    render: Render,
    max_chars: int,
) -> Parsed:
    for name, messages in zip(names, (one, other), strict=True):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise RowProblem(f"{name} must be a whole conversation that ends with an assistant message")
    before = one[:-1]
    same = list(before) == list(other[:-1])
    # Some sets repeat the user's text in a column of its own; if it says something else, guessing is wrong.
    if prompt is not None and not any(m["content"].strip() == prompt.strip() for m in before):
        raise RowProblem(f"the prompt column is not among the messages of {names[0]}")
    rendered, opening = _conversation(before, render, max_chars)
    outcome: Outcome = "pair" if same else "prompts_differ"
    replies = one[-1]["content"], other[-1]["content"]
    return Parsed("whole conversations", outcome, rendered, *replies, opening)


def _whole_dialogues(sides: Sequence[str], names: tuple[str, str]) -> Parsed:
    """hh-rlhf: everything up to and with the last assistant mark is the prompt, the rest the completion."""
    cut = [side.rpartition(ASSISTANT) for side in sides]
    for name, (before, mark, reply) in zip(names, cut, strict=True):
        if not mark:
            raise RowProblem(f"{name} has no assistant turn ({ASSISTANT!r}), and there is no prompt column")
        if HUMAN not in before:
            raise RowProblem(f"{name} has no human turn ({HUMAN!r}) before its last assistant turn")
        if HUMAN in reply:
            raise RowProblem(f"{name} ends with a human turn")
    (prompt, _, first), (other, _, second) = cut
    outcome: Outcome = "pair" if prompt == other else "prompts_differ"
    prompt += ASSISTANT
    return Parsed("whole dialogues", outcome, prompt, first, second, _first_human_turn(prompt))


def _first_human_turn(prompt: str) -> str:
    """The first human turn of an hh-style prompt; of any other text all of it."""
    if not prompt.lstrip().startswith(HUMAN.lstrip()):
        return prompt
    return prompt.lstrip().removeprefix(HUMAN.lstrip()).split(ASSISTANT, 1)[0].strip()


def messages_of(name: str, value: Any, max_chars: int) -> list[Message]:
    """A list of {role, content} with known roles and texts, other keys dropped."""
    if not isinstance(value, list):
        raise RowProblem(f"{name} must be a message list, not {kind_of(value)}")
    messages: list[Message] = []
    for index, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise RowProblem(f"{name}, message {index}: must be an object with role and content")
        role = message["role"]
        if not isinstance(role, str) or role not in _SPEAKERS:
            raise RowProblem(
                f"{name}, message {index}: role must be user, assistant or system, not {str(role)[:40]!r}"
            )
        content = storable(f"{name}, message {index}: content", message["content"], max_chars)
        messages.append({"role": role, "content": content})
    return messages


def storable(name: str, value: Any, max_chars: int) -> str:
    """`value` where it is a text within the cap that can be written as UTF-8 and has no NUL."""
    if not isinstance(value, str):
        raise RowProblem(f"{name} must be text, not {kind_of(value)}")
    if len(value) > max_chars:
        raise RowProblem(f"{name} is {len(value):,} characters long, the cap is {max_chars:,}")
    place = value.find("\0")
    if place >= 0:
        raise RowProblem(f"{name} holds a NUL character at character {place + 1}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowProblem(f"{name} holds half of a surrogate pair at character {error.start + 1}") from error
    return value


def weight_of(value: Any) -> float:
    """A weight above 0 and at most `MOST_WEIGHT`, from a number or (CSV) its text."""
    weight = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            weight = float(value)
    if not 0 < weight <= MOST_WEIGHT:  # NaN is neither
        shown = repr(value)[:40] if isinstance(value, str | float) else kind_of(value)
        raise RowProblem(f"weight must be a number above 0 and at most {MOST_WEIGHT:,}, not {shown}")
    return weight
