"""The records of a file: cells of TSV, CSV and JSON lines, Arrow tables of Parquet.

A text record that cannot be parsed is also yielded, with its text and the fault; the next record is read as usual.
Everything is a stream.
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
from bertnli.data.formats import BLOCK, MAX_LINE, Lines, UnreadableError, decoded, split

if TYPE_CHECKING:
    import pyarrow

MAX_QUOTED = 16 << 20  # characters; a CSV cell longer than this is taken for a quote that was never closed

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

Record = tuple[str, Any, str | None]  # text, cells (list, or dict for JSONL; None if not parsed), the fault if any


def records(lines: Lines, kind: str) -> Iterator[Record]:
    """The records of a text format: (text, cells or None if it could not be parsed, the fault or None)."""
    if kind == "csv":
        yield from _csv_records(lines)
        return
    for data in lines.pieces():
        yield from line_records(data, kind)


def line_records(data: bytes, kind: str) -> Iterator[Record]:
    """The records of a format that has one in each line (JSON lines, TSV), of the bytes of complete lines."""
    as_json = kind == "jsonl"
    text, undecodable = decoded(data)
    for line in split(text):
        if not line:
            yield "", None, "blank line"
        elif undecodable and (shown := _shown(line)):
            yield shown, None, "not valid UTF-8"
        elif as_json:
            yield line, *parse_jsonl(line)
        else:
            yield line, line.split("\t"), None


def parse_tsv(text: str) -> list[str]:
    """The cells of a TSV record. There is no quoting."""
    return text.split("\t")


def parse_jsonl(text: str) -> tuple[dict[str, Any] | None, str | None]:
    """The object in a JSON line, or None, and the fault, or None."""
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "not JSON: nested too deeply"
    except ValueError:  # Python limits the number of digits of an integer
        return None, "not JSON: a number is too long"
    if type(value) is not dict:
        return None, f"{json_type(value)}, expected a JSON object"
    return value, None


_decoder = json.JSONDecoder()


def _decode(text: str) -> Any:
    """As `json.loads`, in two thirds of its time where no white space stands around the value."""
    try:
        value, end = _decoder.raw_decode(text)
    except json.JSONDecodeError:
        return _decoder.decode(text)  # there is some, or this raises the error
    return value if end == len(text) else _decoder.decode(text)


def json_type(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def parse_csv(text: str) -> list[str]:
    """The cells of a CSV record that `records` could parse."""
    if '"' not in text and "\r" not in text:
        return text.split(",")
    return next(csv.reader(io.StringIO(text, newline=""), strict=True))


def _csv_records(lines: Lines) -> Iterator[Record]:
    """RFC 4180 by Python's csv reader, one record at a time, so that a bad record does not affect the next one.

    If a record cannot be parsed, only its first physical line becomes a bad record, and reading continues with the
    second line. As in Python's reader, a quote inside an unquoted cell is an ordinary character.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE + MAX_QUOTED))  # of the process; default: 131,072
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
            # A complete record has an even number of quotes. Stopping there keeps the time linear for any file.
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
                if text.endswith("\r"):  # a reader would take it for a line end
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
    """`text` with its undecodable bytes written as \\xNN; "" if it has none."""
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
    except Exception as error:  # damaged metadata makes Arrow raise many types
        raise UnreadableError(first_line(error)) from error


def parquet_tables(path: str, size: int, columns: Sequence[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a Parquet file in batches of exactly `size`, the last one shorter. Raises UnreadableError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pending: list[pyarrow.RecordBatch] = []
    rows = 0
    try:
        # Without pre_buffer, pages are read one by one, not complete row groups in advance.
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
    """A column as JSON values. Dates, times, decimals and NaN become text; `errors` decodes bytes that are not UTF-8.

    Raises UnreadableError for a type that cannot be written so.
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
            cells = [_as_json(cell) for cell in cells]
        return cells
    except (ValueError, TypeError, ArithmeticError, pa.ArrowException) as error:
        raise UnreadableError(f"a column of type {column.type} cannot be text: {first_line(error)}") from error


def _as_json(value: Any) -> Any:
    """`value` with the numbers that JSON does not have (NaN, Infinity) as text, also inside lists and maps."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE[str(value)]
    if isinstance(value, list | tuple):  # a map's entries are pairs
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    return value
