"""What the first block of a text file shows of how it is written: encoding, line ends, delimiter, header, quotes.

What is certain is taken, and a note says so. What can be meant in two ways is taken as the name of the file says, with
a warning that names the option. What cannot be read is refused. Only the first block is looked at, so time and memory
do not depend on the size of the file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from bertnli.common.errors import InputError
from bertnli.data.columns import listed
from bertnli.data.dialect import USUAL, Dialect, option, shown
from bertnli.data.formats import Lines, Source
from bertnli.data.records import Record, parse_jsonl, table_records

HasPairs = Callable[[Sequence[str]], bool]  # whether names of columns include those that are wanted

_DELIMITERS = ("\t", ",", ";", "|")
_SEPARATOR_LINE = re.compile(rb'"?sep=([^"\r\n])"?\r?\n', re.IGNORECASE)  # Excel's own first line
_TO_LINES = "python3 -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]'"
_ONE_EACH = "JSON lines: one object in each line"
_LIKE_A_ROW = re.compile(r"[-+]?\d+|entailment|neutral|contradiction|entails|(\S+\s+){3,}\S+", re.IGNORECASE)


class Header(NamedTuple):
    """How a text table begins."""

    dialect: Dialect
    decided: bool  # whether the quoting is certain; if not, the rows show it (`quoting_of`)
    text: str  # of the header, for a copy of it
    fields: list[str]
    before: int  # records before the first row
    note: str | None
    hint: str  # what may be wrong if the columns are not those that are wanted


def returns_end_lines(head: bytes) -> bool:
    """Whether carriage returns alone end the lines: one stands before any line feed, and apart from it."""
    at = head.find(b"\r")
    return 0 <= at < len(head) - 1 and b"\n" not in head[: at + 2]


# JSON


def check_json(head: bytes, complete: bool, source: Source, has_pairs: HasPairs) -> None:
    """Raise InputError if the head is not JSON lines but another form that is known. complete: it is the whole file."""
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").lstrip()
    first, _, rest = text.partition("\n")
    first, below = first.rstrip(), rest.strip()[:1]
    is_json = not (parse_jsonl(first)[1] or "").startswith("not JSON")
    if re.match(r"\[\s*([\[{]|$)|\[\]", first) and (not is_json or (complete and not below)):
        do = f"convert it: {source.piped(_TO_LINES, '.jsonl')}"
        raise InputError(f"{source.name}: a JSON array", expected=_ONE_EACH, do=do)
    goes_on = first.endswith(("{", "[")) or (first.endswith(",") and below in tuple('"]}'))
    if first.startswith("{") and not is_json and goes_on:
        what = f"{source.name}: a JSON document of several lines"
        raise InputError(what, expected=_ONE_EACH, do="write each pair as one line")
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        if not is_json and has_pairs([cell.strip('"') for cell in first.split(delimiter)]):
            do = f"give {option('format', kind)}"
            raise InputError(f"{source.name}: looks like a text table", expected=_ONE_EACH, do=do)


# Header


def find_header(head: bytes, told: Dialect, source: Source, has_pairs: HasPairs, returns_end: bool) -> Header:
    """The header of a text table.

    If the dialect that the format's name says gives no such columns as are wanted, and exactly one other does, that one
    is taken. If none does, the columns are those of the likeliest, for a message. Raises InputError if the first record
    cannot be a header.
    """
    name, kind, before = source.name, source.format.kind, 0
    if told.delimiter is None and (line := _SEPARATOR_LINE.match(head.removeprefix(codecs.BOM_UTF8))):
        told, before = replace(told, delimiter=line[1].decode(errors="replace")), 1
    readings = [(dialect, *_record(head, dialect, before, returns_end)) for dialect in _candidates(kind, told)]
    dialect, text, cells, fault = readings[0]
    note, hint = None, f"if it has no header, give {option('header', 'false')}"
    if any(map(_LIKE_A_ROW.fullmatch, cells or [])):
        hint = f"its first line looks like a row; {hint}"

    def found(fields: Sequence[str] | None) -> bool:
        return fields is not None and has_pairs(fields)

    if not told.header:
        if found(cells):
            raise InputError(f"{name}: --no-header", found=f"a header: {listed(cells or [])}", do="omit --no-header")
        cells = None if cells is None else [str(number + 1) for number in range(len(cells))]
        text = (dialect.delimiter or "").join(cells or [])
    elif not found(cells):
        if parse_jsonl(text)[0] is not None:
            do = f"give {option('format', 'jsonl')}"
            raise InputError(f"{name}: looks like JSON lines", expected="a text table", do=do)
        fitting = [reading for reading in readings if found(reading[2])]
        wider = [reading for reading in readings if len(reading[2] or ()) > 1]
        if len(fitting) == 1:
            [(dialect, text, cells, fault)] = fitting
            note = f"note: {name}: its first line shows that {_difference(dialect, readings[0][0])}; it is read so"
        elif cells is not None and len(cells) == 1 and len(wider) == 1:
            [(dialect, text, cells, fault)] = wider
            hint = (
                f"the cells look as if {option('delimiter', shown(dialect.delimiter or ''))} were between them; {hint}"
            )
    if cells is None:
        raise InputError(f"{name}: unusable header: {fault}", expected="column names in the first line", do=hint)
    decided = told.quoting is not None or dialect.delimiter != "\t" or '"' in text
    return Header(dialect, decided, text, _named(cells), before + told.header, note, hint)


def _difference(dialect: Dialect, usual: Dialect) -> str:
    if dialect.delimiter == usual.delimiter:
        return "double quotes enclose its cells"
    return f"{shown(dialect.delimiter or '')} is between its cells"


def _candidates(kind: str, told: Dialect) -> Iterator[Dialect]:
    """The dialects to look at; the first is that of the format's name, or as told."""
    usual = USUAL[kind]
    delimiters = sorted(_DELIMITERS, key=lambda one: one != usual.delimiter)
    for delimiter in delimiters if told.delimiter is None else [told.delimiter]:
        as_text = usual.is_like(Dialect(delimiter=delimiter, quoting="none"))
        for quoting in (("none", "csv") if as_text else ("csv",)) if told.quoting is None else (told.quoting,):
            yield replace(told, delimiter=delimiter, quoting=quoting)


def _record(head: bytes, dialect: Dialect, number: int, returns_end: bool) -> Record:
    empty: Record = "", None, "the file is empty"
    return next(islice(_records(head, dialect, returns_end), number, None), empty)


def _records(head: bytes, dialect: Dialect, returns_end: bool) -> Iterator[Record]:
    lines = Lines([head], keep_returns=dialect.quoted, returns_end=returns_end)
    return table_records(lines, dialect.delimiter or "", dialect.quoted)


def _named(fields: Sequence[str]) -> list[str]:
    """The names of columns; those without a name, which spreadsheets leave at the end, get one."""
    named, taken = list[str](), set(fields)
    for number, field in enumerate(fields, 1):
        name = field if field.strip() else f"column {number}"
        while not field.strip() and name in taken:
            name += "'"
        named.append(name)
    return named


# Quotes


def quoting_of(
    head: bytes, complete: bool, header: Header, width: tuple[int, int], source: Source, returns_end: bool
) -> tuple[str, str | None]:
    """Whether the cells between tabs are quoted, `csv` or `none`, and a note. width: least and most cells of a row.

    SNLI and GLUE have quotes that are text. Writers of CSV (pandas, Excel) put cells into quotes if they have a quote,
    which they double, or a line end or tab. So a cell in quotes with doubled quotes inside, or a row that is whole only
    if line ends or tabs are quoted, shows a writer of CSV, and a cell with a quote that is not in quotes shows text.
    """
    if not complete:
        head = head[: max(head.rfind(b"\n"), head.rfind(b"\r")) + 1]
    dialect, (least, most) = header.dialect, width
    delimiter = dialect.delimiter or ""
    written = maybe = text = 0  # numbers of the first rows that show each
    for number, (raw, cells, _) in enumerate(_records(head, replace(dialect, quoting="csv"), returns_end)):
        row = number + 1 - header.before
        if row < 1 or '"' not in raw:
            continue
        lines = raw.split("\n")
        whole = all(least <= line.count(delimiter) + 1 <= most for line in lines)  # if quotes are text
        fits = cells is not None and least <= len(cells) <= most
        if not whole:
            written = written or (row if fits else 0)
        elif not fits or len(lines) > 1:
            text = text or (row if not fits else 0)
            maybe = maybe or (row if fits else 0)
        else:
            for cell in raw.removesuffix("\r").split(delimiter):
                if _enclosed(cell):
                    written, maybe = (written or row, maybe) if '""' in cell[1:-1] else (written, maybe or row)
                elif '"' in cell:
                    text = text or row
    as_csv, as_text = option("quoting", "csv"), option("quoting", "none")
    usual, note = dialect.quoting or "none", None
    if written and not text:
        if usual != "csv":
            how = f"row {written} has quotes as pandas and Excel write them, and cells are read without them"
            note = f"note: {source.name}: {how}; if they are text, give {as_text}"
        return "csv", note
    if text and not written:
        if usual != "none":
            how = f"row {text} has quotes that do not enclose a cell, and quotes are read as text"
            note = f"note: {source.name}: {how}; if they enclose cells, give {as_csv}"
        return "none", note
    if usual == "none" and (written or maybe):
        how = f"cells in quotes (row {written or maybe}) are read with their quotes"
        note = f"warning: {source.name}: {how}; give {as_csv} if they only enclose cells, or {as_text} if they are text"
    return usual, note


def _enclosed(cell: str) -> bool:
    """Whether a cell is in quotes and has none inside but doubled ones."""
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def looks_written(cell: str) -> bool:
    """Whether a cell is in quotes and has doubled quotes inside, as a writer of CSV makes it."""
    return cell[:1] == '"' and '""' in cell[1:-1] and _enclosed(cell)
