"""Conversations shown as such: who said what, in prompts, and in completions that an environment wrote parts of. Pure.

A prompt that is a conversation is stored as text with a mark before each turn (`data.shapes`). A text that itself holds
such a mark reads as a turn here as it does for the policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rlback.web.plain import SHOWN_CHARS, plain

_MARK = re.compile(r"(?:^|\n\n)(Human|Assistant|System|Tool): ?")
ROLES = {"Human": "user", "Assistant": "assistant", "System": "system", "Tool": "tool result"}
MOST_TURNS = 200


def turns(text: str) -> list[tuple[str, str]]:
    """(role, text) of each turn; nothing for a text that is no conversation. The turn to be written is left out."""
    body = text.lstrip("\n")
    if _MARK.match(body) is None:
        return []
    parts = _MARK.split(body)
    found = [(ROLES[role], said.strip("\n")) for role, said in zip(parts[1::2], parts[2::2], strict=True)]
    if found and found[-1][0] == "assistant" and not found[-1][1].strip():
        found.pop()
    return found[:MOST_TURNS] if len(found) > 1 or text.startswith("\n\n") else []


def shown_prompt(text: str, limit: int) -> dict[str, object]:
    """A prompt as JSON for a page: its pieces, and its turns where it is a conversation."""
    said = turns(text[:limit])
    return {**plain(text, limit).as_json(), "turns": [{"role": role, **plain(part).as_json()} for role, part in said]}


def shown_completion(text: str, answers: Iterable[Sequence[int]], limit: int = SHOWN_CHARS) -> dict[str, object]:
    """A completion as JSON for a page: its pieces, those that an environment wrote nested in one of kind `tool`.

    `answers` are `records.Answer`; none of its numbers is trusted to lie in the text.
    """
    if not answers:
        return plain(text, limit).as_json()
    pieces: list[object] = []
    place = cut = 0
    for _, _, first, last in answers:
        first = min(max(first, place), limit, len(text))
        last = min(max(last, first), limit, len(text))
        for kind, part in (("text", text[place:first]), ("tool", text[first:last])):
            found = plain(part, limit)
            cut += found.left
            own = [[p.kind, p.text] for p in found.pieces]
            pieces += own if kind == "text" else [["tool", own]] * bool(own)
        place = last
    rest = plain(text[place:], max(0, limit - place))
    pieces += [[p.kind, p.text] for p in rest.pieces]
    return {"pieces": pieces, "left": cut + rest.left}
