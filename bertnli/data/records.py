"""The records of a file: cells from lines of TSV, CSV and JSON, tables from Parquet.

A text record that cannot be parsed is a record too, with its text and what is wrong with it; the next one is not
harmed. All of it streams.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import first_line
from bertnli.data.formats import BLOCK, MAX_LINE, Lines, UnreadableError

if TYPE_CHECKING:
    import pyarrow

MAX_QUOTED = 16 << 20  # characters; a CSV cell that is still open after so many was never meant to be one

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

Record = tuple[str, Any, str | None]  # text, cells (list, or dict for JSONL; None if not parsed), what is wrong


def records(lines: Lines, kind: str) -> Iterator[Record]:
    """The records of a text format: (text, cells or None if it could not be parsed, what is wrong or None)."""
    if kind == "csv":
        yield from _csv_records(lines)
        return
    as_json = kind == "jsonl"
    for line in lines:
        if not line:
            yield "", None, "blank line"
        elif lines.undecodable and (shown := _shown(line)):
            yield shown, None, "not valid UTF-8"
        elif as_json:
            yield line, *parse_jsonl(line)
        else:
            yield line, line.split("\t"), None


def parse_tsv(text: str) -> list[str]:
    """The cells of a TSV record. There is no quoting."""
    return text.split("\t")


def parse_jsonl(text: str) -> tuple[dict[str, Any] | None, str | None]:
    """The object a JSON line holds (or None), and what is wrong with it (or None)."""
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "not JSON: nested too deeply"
    except ValueError:  # Python's limit on the digits of an integer
        return None, "not JSON: a number is too long"
    if type(value) is not dict:
        return None, f"{json_type(value)}, expected a JSON object"
    return value, None


_decode = json.JSONDecoder().decode


def json_type(value: object) -> str:
    """What JSON calls a value, with its article."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def parse_csv(text: str) -> list[str]:
    """The cells of a CSV record that `records` has found good."""
    if '"' not in text and "\r" not in text:
        return text.split(",")
    return next(csv.reader(io.StringIO(text, newline=""), strict=True))


def _csv_records(lines: Lines) -> Iterator[Record]:
    """RFC 4180 with Python's csv reader, but one record at a time, so that a bad one does no harm to the next.

    Of a record that fails, only the first physical line is bad, and reading goes on with the second. Like Python's
    reader, this takes a quote inside an unquoted cell as it stands.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE + MAX_QUOTED))  # process-wide; 131,072 by default
    source = iter(lines)
    put_back: deque[str] = deque()
    taken: list[str] = []

    def physical_lines() -> Iterator[str]:
        length = quotes = 0
        while (line := put_back.popleft() if put_back else next(source, None)) is not None:
            taken.append(line)
            length += len(line) + 1
            quotes += line.count('"')
            yield line + "\n"
            # a whole record has an even number of quotes; to look no further keeps a hostile file linear
            if quotes % 2 == 0 or length > MAX_QUOTED:
                return

    while (line := put_back.popleft() if put_back else next(source, None)) is not None:
        cells, fault = None, None
        text = line.removesuffix("\r")
        if not text:
            fault = "blank line"
        elif '"' not in text and "\r" not in text:
            cells = text.split(",")
        else:
            put_back.appendleft(line)
            taken.clear()
            try:
                cells = next(csv.reader(physical_lines(), strict=True))
                text = "\n".join(taken).removesuffix("\r")
                if text.endswith("\r"):  # would be read as a line end if anything were written after it
                    cells, fault = None, "a carriage return inside an unquoted cell"
            except csv.Error as error:
                fault = _csv_fault(str(error))
                put_back.extendleft(reversed(taken[1:]))
        if lines.undecodable and (shown := _shown(text)):
            text, cells, fault = shown, None, "not valid UTF-8"
        yield text, cells, fault


def _csv_fault(message: str) -> str:
    if message.startswith("unexpected end"):
        return "a quote is opened and never closed"
    if message.startswith("new-line"):
        return "a carriage return inside an unquoted cell"
    return f"not CSV: {message}"


def _shown(text: str) -> str:
    """`text` with its undecodable bytes written as \\xNN; "" if there are none."""
    try:
        text.encode()
        return ""
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# Parquet


def parquet_schema(path: str) -> pyarrow.Schema:
    """The Arrow schema of a Parquet file. Raises UnreadableError."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except MemoryError:
        raise
    except Exception as error:  # Arrow's own, and whatever else damaged metadata leads to
        raise UnreadableError(first_line(error)) from error


def parquet_tables(path: str, size: int, columns: Sequence[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a Parquet file in batches of exactly `size`, the last one shorter. Raises UnreadableError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pending: list[pyarrow.RecordBatch] = []
    rows = 0
    try:
        # without pre_buffer it reads page by page, not whole row groups ahead
        with pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False) as file:
            for batch in file.iter_batches(size, columns=columns):
                while rows + batch.num_rows >= size:
                    pending.append(batch.slice(0, size - rows))
                    yield pa.concat_batches(pending)
                    batch = batch.slice(size - rows)
                    pending, rows = [], 0
                if batch.num_rows:
                    pending.append(batch)
                    rows += batch.num_rows
            if pending:
                yield pa.concat_batches(pending)
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableError(first_line(error)) from error


def parquet_cells(column: pyarrow.Array, errors: str = "backslashreplace") -> list[Any]:
    """A column as values that JSON knows; dates, times, decimals and NaN as text, bytes that are not UTF-8 by `errors`.

    Raises UnreadableError for a type that has no such form.
    """
    import pyarrow as pa
    import pyarrow.types as types

    try:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if types.is_string(kind) or types.is_large_string(kind):
            try:
                return column.to_pylist()
            except UnicodeDecodeError:  # the file format does not enforce UTF-8
                column = column.cast(pa.large_binary())
                kind = column.type
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            return [None if cell is None else cell.decode("utf-8", errors) for cell in column.to_pylist()]
        if types.is_decimal(kind) or (types.is_temporal(kind) and not types.is_duration(kind)):
            column = column.cast(pa.string())
        elif types.is_duration(kind):
            column = column.cast(pa.int64())  # in the column's own unit
        cells = column.to_pylist()
        if types.is_floating(kind) or types.is_nested(kind):
            cells = [_as_json_has_it(cell) for cell in cells]
        return cells
    except (ValueError, TypeError, ArithmeticError, pa.ArrowException) as error:
        raise UnreadableError(f"a column of type {column.type} has no form as text: {first_line(error)}") from error


def _as_json_has_it(value: Any) -> Any:
    """`value` with the names of the numbers that JSON does not know, in lists and maps as well."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE[str(value)]
    if isinstance(value, list | tuple):  # a map's entries are pairs
        return [_as_json_has_it(each) for each in value]
    if isinstance(value, dict):
        return {key: _as_json_has_it(each) for key, each in value.items()}
    return value
