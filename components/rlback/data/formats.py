"""Files of rows: telling the formats apart by content, and reading them row by row.

Understood: JSON lines, a JSON array, CSV with a header, each plain or packed with gzip, xz or bzip2, and
Parquet. A row that cannot be read is yielded as a problem, so that the caller decides between refusing the
file and leaving the row out; damage to the file as a whole is a `DataError` at once.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from rlback.data.source import FORMATS_HINT, Source
from rlback.errors import DataError


class RowProblem(Exception):
    """What is wrong with one row and what helps; the reader adds the file and the line."""

    def __init__(
        self, text: str, remedy: str = "correct the row, or set source.skip_invalid to leave such rows out"
    ) -> None:
        super().__init__(text)
        self.remedy = remedy


def kind_of(value: Any) -> str:
    """What a value is, in the words of a person who wrote JSON or CSV."""
    if isinstance(value, bool):
        return "true or false"
    names = {
        type(None): "null",
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


@dataclass(frozen=True)
class Row:
    """One row: its number in the file and either its value or what is wrong with it."""

    number: int
    value: dict[str, Any] | None
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    `unit` says what a row's number counts ("line" or "row"); `columns` is None where rows name their own.
    """

    format: str
    unit: str
    columns: tuple[str, ...] | None
    rows: Iterator[Row]


def table_of(source: Source, wanted: Collection[str]) -> Table:
    """The rows of an open file. Of Parquet only the columns in `wanted` are decoded."""
    head = source.peek()
    if head.startswith(b"PAR1"):
        if source.packing:
            raise DataError(
                f"{source.path} is a packed Parquet file", remedy="unpack it; Parquet packs by itself"
            )
        return _parquet(source, wanted)
    suffix = f".{source.packing}" if source.packing else ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return Table("json" + suffix, "row", None, _array_rows(source))
    if start.startswith(b"{") or not start:
        return Table("jsonl" + suffix, "line", None, _json_line_rows(source))
    if b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{source.path} is a binary file or not UTF-8", remedy=FORMATS_HINT)
    return _csv(source, "csv" + suffix)


def _unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(items)
    if len(row) != len(items):
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        raise RowProblem(f"the key {twice[:40]!r} is there twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


def _past_space(text: str, at: int) -> int:
    found = _JSON_SPACE.match(text, at)
    return found.end() if found else at


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RowProblem(f"not UTF-8 at byte {error.start + 1} of the {where}") from error


def _value_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that starts at `start`, and where the text goes on after white space."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise RowProblem(f"not JSON: {error.msg} at {_place(text, error.pos)}") from error
    except RecursionError as error:
        raise RowProblem("JSON nested too deeply") from error
    except ValueError as error:  # integers of thousands of digits
        raise RowProblem(f"not JSON that can be read: {error}") from error
    return value, _past_space(text, end)


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = f"column {position - text.rfind(chr(10), 0, position)}"
    return column if "\n" not in text.rstrip("\n") else f"line {line}, {column}"


def _row(number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, None, f"a row must be a JSON object, this one is {kind_of(value)}")


def _json_line_rows(source: Source) -> Iterator[Row]:
    for number, line in source.lines():
        if line.isspace():
            continue
        try:
            text = _decode(line, "line")
            value, end = _value_at(text, _past_space(text, 0))
            if end != len(text):
                raise RowProblem(f"not JSON: more text after the object, at column {end + 1}")
            yield _row(number, value)
        except RowProblem as problem:
            yield Row(number, None, str(problem))


def _array_rows(source: Source) -> Iterator[Row]:
    """Row by row out of the text, so that an array of very many tiny values costs no more memory than it."""
    number = 0
    try:
        text = _decode(source.whole(), "file")
        at = _past_space(text, text.index("[") + 1)
        closed = text[at : at + 1] == "]"
        while not closed:
            value, at = _value_at(text, at)
            number += 1
            if number > source.limits.max_rows:
                raise DataError(
                    f"{source.path} has more than {source.limits.max_rows:,} rows", remedy="split the file"
                )
            yield _row(number, value)
            mark = text[at : at + 1]
            closed = mark == "]"
            if not closed:
                if mark != ",":
                    raise RowProblem(f"not JSON: ',' or ']' expected at {_place(text, at)}")
                at = _past_space(text, at + 1)
        end = _past_space(text, at + 1)
        if end != len(text):
            raise RowProblem(f"not JSON: more text after the array, at {_place(text, end)}")
    except RowProblem as problem:
        # Nothing tells where the next row starts, so this is never skipped over.
        raise DataError(
            f"{source.path}, after row {number}: {problem}",
            remedy="correct the JSON array, or write JSON lines",
        ) from problem


def _csv(source: Source, name: str) -> Table:
    # The module's cap on a cell is global and starts below ours; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), source.limits.max_line_bytes))
    reader = csv.reader(_decoded_lines(source), strict=True)
    header = _next_cells(source, reader)
    while header == []:
        header = _next_cells(source, reader)
    columns = tuple(cell.strip() for cell in header or ())
    if len(set(columns)) != len(columns):
        raise DataError(f"{source.path}, line 1: a CSV column is named twice", remedy="name each column once")
    return Table(name, "line", columns, _csv_rows(source, reader, columns))


def _decoded_lines(source: Source) -> Iterator[str]:
    for number, line in source.lines():
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{source.path}, line {number}: not UTF-8 at byte {error.start + 1} of the line",
                remedy="re-encode the file as UTF-8",
            ) from error


def _next_cells(source: Source, reader: Any) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        # Once quoting is lost nothing tells where the next row starts, so this is never skipped over.
        raise DataError(
            f"{source.path}, line {reader.line_num}: not CSV: {error}",
            remedy="put quotes round cells that hold quotes, commas or line ends, and double inner quotes",
        ) from error


def _csv_rows(source: Source, reader: Any, columns: tuple[str, ...]) -> Iterator[Row]:
    while True:
        number = reader.line_num + 1
        cells = _next_cells(source, reader)
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) != len(columns):
            yield Row(number, None, f"{len(cells)} cells where the header names {len(columns)}")
        else:
            yield Row(number, dict(zip(columns, cells, strict=True)))


def _parquet(source: Source, wanted: Collection[str]) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(source.raw)
        columns = tuple(file.schema_arrow.names)
        groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        count = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _bad_parquet(source, error) from error
    if len(set(columns)) != len(columns):
        raise DataError(f"{source.path}: a Parquet column is named twice", remedy="name each column once")
    if count > source.limits.max_rows or sum(groups) > source.limits.max_bytes:
        raise DataError(
            f"{source.path}: {count:,} rows of {sum(groups):,} bytes are too many", remedy="split the file"
        )
    chosen = [name for name in columns if name in wanted]
    return Table("parquet", "row", columns, _parquet_rows(source, file, chosen))


def _bad_parquet(source: Source, error: BaseException) -> DataError:
    text = " ".join(str(error).split())[:200]
    return DataError(f"{source.path}: the Parquet file cannot be read: {text}", remedy="write the file again")


def _parquet_rows(source: Source, file: Any, chosen: list[str]) -> Iterator[Row]:
    import pyarrow

    number = 0
    try:
        for batch in file.iter_batches(batch_size=256, columns=chosen, use_threads=False):
            if batch.nbytes > source.limits.max_whole_bytes:
                raise DataError(
                    f"{source.path}, row {number + 1} and after: 256 rows of {batch.nbytes:,} bytes",
                    remedy="leave out the overlong texts",
                )
            rows = batch.to_pylist()
            for value in rows:
                number += 1
                yield Row(number, value)
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _bad_parquet(source, error) from error
