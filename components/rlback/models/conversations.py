"""Prompts that are conversations: lists of {role, content}, in the words of the tokenizer's chat template or plain.

Whatever stands in a message stays text. Literals of the tokenizer's added tokens inside contents are cut in two
before the template sees them, the pieces are encoded on their own, and the special tokens that result must be those
of the same conversation with every letter replaced by x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rlback.data.shapes import ASSISTANT, HUMAN, render_messages
from rlback.errors import DataError
from rlback.models.chat_template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]

_ROLES = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT}
_MARK = re.compile("|".join(_ROLES.values()))
_FORGED = re.compile(r"\n{2,}(?=(?:System|Human|Assistant):)")
_PRIVATE_USE = range(0xE000, 0xF900)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str | Sequence[Message]) -> list[int]:
    """The ids of a prompt, up to where the completion begins.

    A list is a conversation. So is a text that `messages_in` can read, where the tokenizer has a template; any other
    text is encoded as it is. Raises DataError for a prompt without tokens and as `encode_conversation`.
    """
    if not isinstance(prompt, str):
        return encode_conversation(tokenizer, prompt)
    # Here, so that reading preference files (`plain_text`) brings no transformers into the console.
    from rlback.models.tokenizers import encode_prompt

    messages = messages_in(prompt) if tokenizer.chat_template is not None else None
    return encode_prompt(tokenizer, prompt) if messages is None else encode_conversation(tokenizer, messages)


def encode_conversation(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """The ids of a conversation with the opening of the assistant's turn.

    By the tokenizer's chat template, and without one the ids of `plain_text`. Raises DataError for messages that are
    none, that end with the assistant's, that the template refuses, or that would make a special token.
    """
    from rlback.models.tokenizers import encode_prompt

    _check(messages)
    if tokenizer.chat_template is None:
        return encode_prompt(tokenizer, plain_text(messages))
    ids = _templated(tokenizer, messages)
    blank = [{"role": m["role"], "content": re.sub(r"\S", "x", m["content"])} for m in messages]
    if _special(tokenizer, ids) != _special(tokenizer, _templated(tokenizer, blank)):
        raise DataError(
            "a message becomes a special token together with the chat template's text around it",
            remedy="leave out the parts of messages that look like special tokens",
        )
    if not ids:
        raise DataError("the chat template makes nothing of this conversation", remedy="give the messages a text")
    return ids


def plain_text(messages: Sequence[Message]) -> str:
    """A conversation as text, for tokenizers without a template and for people.

    Messages read "\\n\\nHuman: ...", "\\n\\nAssistant: ..." and "\\n\\nSystem: ...", and "\\n\\nAssistant:" comes
    last, as in preference files (data/shapes.py). A mark inside a message loses its blank line, and is no mark.
    """
    _check(messages)
    return render_messages([{"role": m["role"], "content": _FORGED.sub("\n", m["content"])} for m in messages])


def messages_in(text: str) -> list[Message] | None:
    """The conversation whose `plain_text` this is; None for any other text.

    A system message is read at the start only: further down its mark is something that a person typed.
    """
    marks = [mark for mark in _MARK.finditer(text) if mark[0] != _ROLES["system"] or mark.start() == 0]
    if len(marks) < 2 or marks[0].start() != 0 or marks[-1].end() != len(text) or marks[-1][0] != ASSISTANT:
        return None
    role_of = {mark: role for role, mark in _ROLES.items()}
    messages = [
        {"role": role_of[mark[0]], "content": text[mark.end() : following.start()].removeprefix(" ")}
        for mark, following in pairwise(marks)
    ]
    return None if messages[-1]["role"] == "assistant" else messages


def _check(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES or not isinstance(content, str):
            raise DataError(
                f"message {number} of a conversation has role {str(role)[:40]!r} and a content of type "
                f"{type(content).__name__}",
                remedy=f"give every message a role ({', '.join(_ROLES)}) and a text",
            )
    if not messages or messages[-1]["role"] == "assistant":
        raise DataError(
            "a conversation that is a prompt must end before the assistant's turn",
            remedy="end it with the user's message",
        )


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """Ids of the rendered conversation, the template's own special tokens as such."""
    taken = set("".join(m["content"] for m in messages)) | set(tokenizer.chat_template)
    cut = next((chr(code) for code in _PRIVATE_USE if chr(code) not in taken), None)
    if cut is None:
        raise DataError("a conversation uses every private-use character", remedy="leave some out")
    marked = [{"role": m["role"], "content": _cut(tokenizer, m, cut)} for m in messages]
    pieces = render(tokenizer.chat_template, marked, tokenizer.special_tokens_map).split(cut)
    encoded = [tokenizer(piece, add_special_tokens=False, split_special_tokens=False)["input_ids"] for piece in pieces]
    return [token for ids in encoded for token in ids]


def _cut(tokenizer: PreTrainedTokenizerFast, message: Message, cut: str) -> str:
    """The content with every literal of an added token cut after its first character.

    In the assistant's own turns only of special ones: what else it wrote, such as a tag for its thoughts, is its own.
    """
    literals = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1 and not token.content.isspace() and (token.special or message["role"] != "assistant")
    ]
    if not literals:
        return message["content"]
    pattern = "|".join(map(re.escape, sorted(literals, key=len, reverse=True)))
    return re.sub(f"(?=(?:{pattern}))(.)", rf"\1{cut}", message["content"], flags=re.DOTALL)


def _special(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[int]:
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [token for token in ids if token in special - {tokenizer.unk_token_id}]
