"""The records of a text file: cells of text tables and JSON lines. (parquet.py reads Parquet.)

A text record that cannot be parsed is also yielded, with its text and the fault; the next record is read as usual.
Everything is a stream.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from bertnli.data.lines import MAX_LINE, Lines, decoded, split
from bertnli.data.run_keys import in_run_file

MAX_QUOTED = 16 << 20  # characters; a CSV cell longer than this is taken for a quote that was never closed
_MAX_LINES = 100  # a record that cannot be parsed is not taken to have more lines
_MAX_DEPTH = 500  # of JSON; what Python can still read depends on where it is called
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')
BLANK_LINE = "blank line"
NOT_UTF8 = "not valid UTF-8"

Record = tuple[str, Any, str | None]  # text, cells (list, or dict for JSONL; None if not parsed), the fault if any


def _part_of_a_cell() -> str:
    return f"part of a quoted cell that has line ends; --quoting csv {in_run_file('data.quoting')} reads it"


def json_records(data: bytes) -> Iterator[Record]:
    """The records of complete lines of JSON: (text, object or None if it could not be parsed, the fault or None)."""
    text, undecodable = decoded(data)
    for line in split(text):
        if not line:
            yield "", None, BLANK_LINE
        elif undecodable and (shown := _shown(line)):
            yield shown, None, NOT_UTF8
        else:
            yield line, *parse_jsonl(line)


def table_records(lines: Lines, delimiter: str, quoted: bool) -> Iterator[Record]:
    """The records of a text table: (text, cells or None if it could not be parsed, the fault or None).

    quoted: cells may be in double quotes, as in RFC 4180; `lines` must keep carriage returns. Otherwise a quote is a
    character like any other.
    """
    return _quoted_records(lines, delimiter) if quoted else _plain_records(lines, delimiter)


def parse_cells(text: str, delimiter: str, quoted: bool) -> list[str]:
    """The cells of a record that `table_records` could parse."""
    if not quoted or ('"' not in text and "\r" not in text):
        return text.split(delimiter)
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


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
    if text.count("[") + text.count("{") > _MAX_DEPTH and _depth(text) > _MAX_DEPTH:
        return None, "not JSON: nested too deeply"
    return value, None


def _depth(text: str) -> int:
    """How many brackets of valid JSON are open at once."""
    depth = most = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        most = max(most, depth)
    return most


class JsonCells(dict[str, str | None]):
    """The values of a JSON object as `json_cells` makes them.

    text: of the object, with blanks for tabs and carriage returns, which strings only have as escapes. lacking:
    whether a key stands twice, so that its first value is not here, or a string has half a surrogate pair, which is
    written as an escape.
    """

    def __init__(self, text: str):
        super().__init__()
        self.text, self.lacking = text.replace("\t", " ").replace("\r", " "), False


def json_cells(text: str) -> JsonCells:
    """The values of an object that `parse_jsonl` could parse: strings and null as they are, all else as it is written.

    So 1e400 and all digits of a number are kept, which a float would not hold.
    """
    cells = JsonCells(text)
    text, at = cells.text, _after_blanks(cells.text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _decoder.raw_decode(text, at)
        start = _after_blanks(text, _after_blanks(text, at) + 1)  # behind the colon
        value, at = _decoder.raw_decode(text, start)
        cells.lacking |= key in cells or (isinstance(value, str) and not is_text(value))
        cells[key] = value if value is None or isinstance(value, str) else text[start:at]
        at = _after_blanks(text, at)
        if text[at] == ",":
            at = _after_blanks(text, at + 1)
    return cells


def _after_blanks(text: str, at: int) -> int:
    while text[at] == " ":
        at += 1
    return at


def has_key_twice(text: str, key: str) -> bool:
    """Whether a key stands twice in the object that `parse_jsonl` could parse."""
    pairs = json.loads(text, object_pairs_hook=list)
    return sum(name == key for name, _ in pairs) > 1


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


def is_text(value: Any) -> bool:
    """Whether `value` is a string that UTF-8 can encode, so one without a lone surrogate."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _plain_records(lines: Lines, delimiter: str) -> Iterator[Record]:
    """Each line is a record, unless it is clearly a part of a quoted cell that has line ends."""
    source = iter(lines)
    width = 0  # cells of the first record
    for line in source:
        cells = line.split(delimiter)
        if len(cells) == width and not lines.undecodable:
            yield line, cells, None
        else:
            yield from _odd_lines(line, source, lines, delimiter, width)
            width = width or len(cells)


def _odd_lines(line: str, source: Iterator[str], lines: Lines, delimiter: str, width: int) -> Iterator[Record]:
    """The record of a line with another number of cells than `width`, and of those below that were looked at for it."""
    waiting = deque([line])
    while waiting:
        line = waiting.popleft()
        if not line:
            yield "", None, BLANK_LINE
            continue
        cells = line.split(delimiter)
        if len(cells) < width and line.count('"') % 2:  # it may open a quote, which a line below closes
            taken = [line]
            while (
                len(taken) < _MAX_LINES and (below := waiting.popleft() if waiting else next(source, None)) is not None
            ):
                taken.append(below)
                if below.count('"') % 2:
                    break
            if _is_broken_up(taken, delimiter, width):
                yield from ((_shown(part) or part, None, _part_of_a_cell()) for part in taken)
                continue
            waiting.extendleft(reversed(taken[1:]))
        if lines.undecodable and (shown := _shown(line)):
            yield shown, None, NOT_UTF8
        else:
            yield line, cells, None


def _is_broken_up(lines: Sequence[str], delimiter: str, width: int) -> bool:
    """Whether the lines together are one record of `width` cells with quoted cells."""
    try:
        return len(lines) > 1 and len(parse_cells("\n".join(lines), delimiter, quoted=True)) == width
    except csv.Error:
        return False


def _quoted_records(lines: Lines, delimiter: str) -> Iterator[Record]:
    """RFC 4180 by Python's csv reader, one record at a time, so that a bad record does not affect the next one.

    If a record cannot be parsed and its lines look like records themselves, only its first line becomes a bad record,
    and reading continues with the second line. As in Python's reader, a quote inside an unquoted cell is an ordinary
    character.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE + MAX_QUOTED))  # of the process; default: 131,072
    source = iter(lines)
    put_back: deque[str] = deque()
    taken: list[str] = []
    width = 0  # cells of the first record
    opened = False  # whether a record above opened a quote that the next quote may close

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
            fault = BLANK_LINE
        elif '"' not in text and "\r" not in text:
            cells = text.split(delimiter)
        else:
            put_back.appendleft(line)
            taken.clear()
            try:
                cells = next(csv.reader(physical_lines(), delimiter=delimiter, strict=True))
                text = "\n".join(taken).removesuffix("\r")
                if text.endswith("\r"):  # a reader would take it for a line end
                    cells, fault = None, "a carriage return inside an unquoted cell"
                elif opened and text.count('"') % 2:
                    cells, fault = None, "a quote that may end a cell of a row above"
                opened = opened and line.count('"') % 2 == 0
            except csv.Error as error:
                fault = _csv_fault(str(error), text)
                closed = not str(error).startswith("unexpected end") and 1 < len(taken) <= _MAX_LINES
                if closed and any(each.count(delimiter) != width - 1 for each in taken):
                    text = "\n".join(taken).removesuffix("\r")  # its lines are no records
                else:
                    put_back.extendleft(reversed(taken[1:]))
                    opened = len(taken) > 1
        if lines.undecodable and (shown := _shown(text)):
            text, cells, fault = shown, None, NOT_UTF8
        width = width or len(cells or ())
        yield text, cells, fault


def _csv_fault(message: str, text: str) -> str:
    if message.startswith("unexpected end"):
        return "a quote is opened and never closed"
    if message.startswith("new-line"):
        return "a carriage return inside an unquoted cell"
    return f"not CSV: {message}" + (" (quotes are doubled in CSV, not escaped)" if '\\"' in text else "")


def _shown(text: str) -> str:
    """`text` with its undecodable bytes written as \\xNN; "" if it has none."""
    try:
        text.encode()
        return ""
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
