"""The files of a world: JSON lines of texts, written byte for byte the same and checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rlback.errors import DataError


def write_lines(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """One JSON object a line, keys sorted."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def read_lines(path: Path, keys: tuple[str, ...], check_prompt: Callable[[str], object]) -> list[dict[str, str]]:
    """The rows of a file, each with exactly these keys; `check_prompt` raises DataError for a foreign prompt.

    Raises DataError naming the file and line of whatever is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", remedy="write the world's data again with its write_data"
        ) from None
    rows = []
    # Not splitlines(): JSON texts may hold other characters that it takes for line ends.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad_line(path, number, f"is not JSON ({error.msg})") from None
        if not isinstance(row, dict) or set(row) != set(keys) or {type(v) for v in row.values()} != {str}:
            raise _bad_line(path, number, f"must be an object of texts with the keys {', '.join(keys)}")
        try:
            check_prompt(row["prompt"])
        except DataError as error:
            raise _bad_line(path, number, f"holds no valid prompt: {error.message}") from None
        rows.append(row)
    return rows


def _bad_line(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number}: {what}", remedy="correct the line, or write the world's data again")
