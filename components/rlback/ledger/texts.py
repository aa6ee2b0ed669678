"""Texts that no database of ours takes: with the character U+0000, which PostgreSQL cannot keep, or half a surrogate pair.

SQLite would keep the first. A ledger that can be moved from one to the other holds neither. Forms and files refuse such
texts with their own words; this is for what came another way.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from rlback.errors import DataError

_AROUND = 20


def refuse_unkeepable(engine: Engine) -> None:
    """From now on every statement with such a text is refused, before the driver sees it."""
    event.listen(engine, "before_cursor_execute", _look)


def _look(_connection: Any, _cursor: Any, _statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
    for row in parameters if executemany else (parameters,):
        for value in row.values() if isinstance(row, dict) else row or ():
            if type(value) is str and ("\0" in value or not _whole(value)):
                raise _refusal(value)


def _whole(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(value: str) -> DataError:
    at = next(i for i, c in enumerate(value) if c == "\0" or "\ud800" <= c <= "\udfff")
    what = "the character U+0000" if value[at] == "\0" else "half a surrogate pair"
    near = ascii(value[max(0, at - _AROUND) : at + _AROUND])
    return DataError(f"a text holds {what} at character {at + 1}, which the database does not keep: {near}", remedy="take it out")
