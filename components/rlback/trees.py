"""What a YAML file or a setting says, taken as it is written: each key once, numbers in decimal and of a usual size.

YAML alone lets the last of two equal keys win, reads 010 as 8 and 1:30 as 90; and `yes` is a 1 where a number is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from rlback.errors import ConfigError

#: No setting is larger or, unless it is 0, nearer to 0: fp32 holds both, their square too large or small included.
LARGEST, SMALLEST = 10**12, 1e-18
#: A name for randomness and no size: any whole number will do.
NAMES = ("seed",)

_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_SHOWN = 60


def parse(text: str, place: str) -> Any:
    """The plain value that a YAML text holds; `place` is what errors name.

    Raises:
        ConfigError: a key stands there twice, or a number is not written in decimal; names place, line and key.
        yaml.YAMLError, ValueError, RecursionError: it is no YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _require_plain(node, "", place, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def require_numbers(given: Any, taken: Any, place: str, key: str = "") -> None:
    """Looks at every number of a checked tree, `taken`, and at what it was made from, `given`.

    Raises:
        ConfigError: one was made from true or false, or is of no usual size; names the dotted key.
    """
    if isinstance(taken, Mapping):
        for name, part in taken.items():
            said = given.get(name) if isinstance(given, Mapping) else None
            require_numbers(said, part, place, f"{key}.{name}" if key else str(name))
    elif isinstance(taken, list | tuple):
        for number, part in enumerate(taken):
            said = given[number] if isinstance(given, list | tuple) and number < len(given) else None
            require_numbers(said, part, place, f"{key}.{number}")
    elif isinstance(taken, int | float) and not isinstance(taken, bool):
        if isinstance(given, bool):
            raise ConfigError(
                f"{place}: `{key}` must be a number, and {str(given).lower()} is none (nor are yes, no, on and off)",
                remedy=f"give `{key}` a number",
            )
        if key not in NAMES and not (taken == 0 or SMALLEST <= abs(taken) <= LARGEST):
            raise ConfigError(
                f"{place}: `{key}`: no number that large or that near to 0 is of use (it is {str(taken)[:_SHOWN]})",
                remedy=f"give `{key}` a number between {SMALLEST:g} and {LARGEST:g}, or 0 where that is allowed",
            )


def _require_plain(node: yaml.Node, key: str, place: str, seen: set[int]) -> None:
    """Goes through the nodes of a text, each of them once, however often an alias names it."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for name, part in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # no plain tree has such a key, and YAML's own error says so
            dotted = f"{key}.{name.value[:_SHOWN]}" if key else name.value[:_SHOWN]
            same, line = (name.tag, name.value), name.start_mark.line + 1
            if same in lines:
                raise ConfigError(
                    f"{place}, line {line}: the key `{dotted}` stands on line {lines[same]} already",
                    remedy="leave one of the two",
                )
            lines[same] = line
            _require_plain(part, dotted, place, seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            _require_plain(part, f"{key}.{number}" if key else str(number), place, seen)
    elif (node.tag == _INTEGER and not _DECIMAL.fullmatch(node.value)) or (node.tag == _FLOAT and ":" in node.value):
        at = f"{place}, line {node.start_mark.line + 1}: " + (f"`{key}`: " if key else "")
        raise ConfigError(
            f"{at}a number is not written in decimal (YAML reads 010 as 8, and 1:30 as 90)",
            remedy="write it in decimal, without a leading 0",
        )
