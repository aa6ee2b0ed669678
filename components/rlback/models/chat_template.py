"""Chat templates: Jinja programs that came with a foreign tokenizer, read as text and rendered in a sandbox.

The sandbox is Jinja's immutable one with the settings of transformers 5.23, less what would make a prompt depend on
the day it is rendered (`strftime_now`) or draw at random. A template sees texts and nothing else; its length, its
output and its ranges are capped. That it ends soon is not enforced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from rlback.errors import CheckpointError, DataError
from rlback.models.manifest import read_json_object

MAX_TEMPLATE = 65_536  # characters; the longest of well-known models have about 20,000
MAX_RENDERED = 2_000_000  # characters
_MAX_REPEATS = 10_000  # of a loop's range or a repeated text


def read_template(directory: Path) -> str | None:
    """The chat template of a Hugging Face format directory, as text; `chat_template.jinja` comes first, as upstream.

    Of several named ones in `tokenizer_config.json` it is `default`. Raises CheckpointError, naming the file, for one
    that is longer than `MAX_TEMPLATE` or that the sandbox cannot read.
    """
    place, found = directory / "chat_template.jinja", None
    if place.is_file():
        if place.stat().st_size > 4 * MAX_TEMPLATE:
            _refuse(place, f"has more than {4 * MAX_TEMPLATE} bytes")
        try:
            found = place.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            _refuse(place, "is not UTF-8")
    elif (directory / "tokenizer_config.json").is_file():
        place = directory / "tokenizer_config.json"
        found = read_json_object(place).get("chat_template")
        if isinstance(found, list):
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
    if found is None:
        return None
    if not isinstance(found, str):
        _refuse(place, "has a chat_template that is no text")
    if len(found) > MAX_TEMPLATE:
        _refuse(place, f"has a chat template of more than {MAX_TEMPLATE} characters")
    try:
        _compiled(found)
    except (jinja2.TemplateError, RecursionError) as error:
        _refuse(place, f"has a chat template that cannot be read: {error}")
    return found


def _refuse(place: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{place} {why}", remedy="correct the template, or remove it to have plain prompts")


def render(template: str, messages: Sequence[Mapping[str, str]], tokens: Mapping[str, str]) -> str:
    """The text of a conversation with the opening of the assistant's turn; `tokens`: special tokens by name.

    Raises DataError for a template that refuses the conversation, fails, or writes too much.
    """
    given: dict[str, Any] = {**tokens, "messages": messages, "tools": None, "documents": None}
    parts, size = [], 0
    try:
        for part in _compiled(template).generate(**given, add_generation_prompt=True):
            size += len(part)
            if size > MAX_RENDERED:
                raise SecurityError(f"it writes more than {MAX_RENDERED} characters")
            parts.append(part)
    except Exception as error:  # a template can fail in every way that an expression can
        raise DataError(
            f"the chat template makes no prompt of this conversation: {' '.join(str(error).split())[:300]}",
            remedy="give it the roles in the order that the template expects",
        ) from error
    return "".join(parts)


class _Names(Namespace):
    """Jinja's namespace, without names that lead to Python's insides."""

    def __init__(*args: Any, **names: Any) -> None:
        for name in dict(*args[1:], **names):
            _Names._require_plain(name)
        Namespace.__init__(*args, **names)

    def __setitem__(self, name: str, value: Any) -> None:
        self._require_plain(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _require_plain(name: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace may not hold {name!r}")


class _Generation(Extension):
    """The block `{% generation %}`, which marks the assistant's text in templates of transformers; its content stays."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        size = len(left) * right if isinstance(left, str | list) and isinstance(right, int) else 0
        plain = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or size > _MAX_REPEATS or not (plain or isinstance(right, int)):
            raise SecurityError(f"{operator} makes something too large")
        return super().call_binop(context, operator, left, right)


def _few(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_REPEATS:
        raise SecurityError(f"a range of more than {_MAX_REPEATS}")
    return numbers


def _raise(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    sandbox.filters["tojson"] = _json
    sandbox.filters.pop("random")
    sandbox.globals = {"range": _few, "namespace": _Names, "dict": lambda **items: items, "raise_exception": _raise}
    return sandbox.from_string(template)
