"""The records of a text file: cells of TSV, CSV and JSON lines. (parquet.py reads Parquet.)

A text record that cannot be parsed is also yielded, with its text and the fault; the next record is read as usual.
Everything is a stream.
"""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from bertnli.data.formats import MAX_LINE, Lines

MAX_QUOTED = 16 << 20  # characters; a CSV cell longer than this is taken for a quote that was never closed

Record = tuple[str, Any, str | None]  # text, cells (list, or dict for JSONL; None if not parsed), the fault if any


def records(lines: Lines, kind: str) -> Iterator[Record]:
    """The records of a text format: (text, cells or None if it could not be parsed, the fault or None)."""
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


_decode = json.JSONDecoder().decode


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
