"""Conversations in prompts, shown as such: who said what. Pure.

A prompt that is a conversation is stored as text with a mark before each turn (`data.shapes`). A text that itself holds
such a mark reads as a turn here as it does for the policy.
"""

from __future__ import annotations

import re

from rlback.web.plain import plain

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
