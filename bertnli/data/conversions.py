"""Shell commands that make a file that can be read of one that cannot. Messages name them, and a test runs each."""

from __future__ import annotations

import json
import shlex

from bertnli.data.formats import Source

_LOAD = 'import json, sys; table = json.loads(sys.stdin.buffer.read().decode("utf-8-sig")); '
_COLUMNS = "cells = [list(column.values() if isinstance(column, dict) else column) for column in table.values()]; "
_CSV = (
    'import csv, sys; sys.stdin.reconfigure(encoding="utf-8-sig", newline=""); '
    'sys.stdout.reconfigure(encoding="utf-8", newline=""); '
)


def from_encoding(source: Source, encoding: str) -> str:
    """`encoding` as iconv calls it, to UTF-8."""
    return source.piped(f"iconv -f {encoding} -t UTF-8")


def from_line(source: Source, line: int) -> str:
    """The lines from `line` on, counted from 1."""
    return source.piped(f"tail -n +{line}")


def rows_of_array(source: Source, key: str) -> str:
    """The JSON array that an object has under `key`, to JSON lines."""
    return _json_lines(source, "", f"table[{json.dumps(key)}]")


def rows_of_columns(source: Source) -> str:
    """A JSON object of columns, each a list or, as pandas writes it, an object with a key for each row, to JSON
    lines."""
    return _json_lines(source, _COLUMNS, "(dict(zip(table, row)) for row in zip(*cells, strict=True))")


def without_blanks(source: Source, delimiter: str) -> str:
    """A text table without the blanks between a delimiter and the quotes of a cell."""
    between = "" if delimiter == "," else f", delimiter={json.dumps(delimiter)}"
    rows = f"csv.reader(sys.stdin, skipinitialspace=True{between})"
    return source.piped(_python(f"{_CSV}csv.writer(sys.stdout{between}).writerows({rows})"))


def with_named_rows(source: Source, delimiter: str) -> str:
    """A text table whose header lacks the first column gets a name for it."""
    return source.piped("sed " + shlex.quote(f"1s/^/row{_in_sed(delimiter)}/"))


def without_last_cell(source: Source, delimiter: str) -> str:
    """A text table whose rows, but not its header, end with a delimiter."""
    return source.piped("sed " + shlex.quote(f"s/{_in_sed(delimiter)}\\(\\r*\\)$/\\1/"))


def _in_sed(delimiter: str) -> str:
    return "\\t" if delimiter == "\t" else f"\\{delimiter}" if delimiter in r"\/.*[^$&" else delimiter


def _json_lines(source: Source, before: str, rows: str) -> str:
    return source.piped(_python(f"{_LOAD}{before}[print(json.dumps(row)) for row in {rows}]"), ".jsonl")


def _python(program: str) -> str:
    return f"python3 -c {shlex.quote(program)}"
