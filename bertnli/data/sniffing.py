"""What the first block of a text file shows of how it is written: encoding, line ends, delimiter, header, quotes.

What is certain is taken, and a note says so. What can be meant in two ways is taken as the name of the file says, with
a warning that names the option. What cannot be read is refused. Only the first block is looked at, so time and memory
do not depend on the size of the file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from bertnli.common.errors import InputError
from bertnli.data import conversions
from bertnli.data.columns import listed
from bertnli.data.dialect import USUAL, Dialect, option, shown
from bertnli.data.formats import Source
from bertnli.data.lines import DOUBLED_RETURN, RETURN, Lines
from bertnli.data.records import BLANK_LINE, NOT_UTF8, Record, parse_jsonl, table_records
from bertnli.data.run_keys import in_run_file

HasPairs = Callable[[Sequence[str]], bool]  # whether names of columns include those that are wanted

_DELIMITERS = ("\t", ",", ";", "|")
_SEPARATOR_LINE = re.compile(rb'"?sep=([^"\r\n])"?\r?\n', re.IGNORECASE)  # Excel's own first line
_ONE_EACH = "JSON lines: one object in each line"
_BLANK_AND_QUOTE = re.compile(r' +".*"\s*', re.DOTALL)  # a cell of a program that puts a blank after each delimiter
_LABEL = re.compile(r"-|(not|non)?[-_ ]?entail(ment|s)|neutral|contradiction|contradictory", re.IGNORECASE)
_MOST_ABOVE = 50  # records in which a header is looked for that is not in the first line
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


def note_of_encoding(head: bytes, complete: bool, source: Source) -> str | None:
    """What to do if the head is not UTF-8. complete: it is the whole file."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=complete)
    except UnicodeDecodeError as error:
        line = head.count(line_end(head), 0, error.start) + 1
        what = f"warning: {source.name}: line {line} is not UTF-8 text, so the file may have another encoding"
        return f"{what}; {from_windows(source)}"
    return None


def from_windows(source: Source) -> str:
    """What to do with text that is not UTF-8."""
    return f"if it is Windows-1252, convert it: {conversions.from_encoding(source, 'WINDOWS-1252')}"


def line_end(head: bytes) -> bytes:
    """What ends the first line: RETURN or DOUBLED_RETURN, or a line feed, with or without a carriage return."""
    at = head.find(RETURN)
    if at < 0 or at == len(head) - 1 or b"\n" in head[: at + 2]:
        return b"\n"
    return DOUBLED_RETURN if head.startswith(DOUBLED_RETURN, at) else RETURN


# JSON


def check_json(head: bytes, complete: bool, source: Source, has_pairs: HasPairs) -> None:
    """Raise InputError if the head is not JSON lines but another form that is known. complete: it is the whole file."""
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").lstrip()
    first, _, rest = text.partition("\n")
    first, below = first.rstrip(), rest.strip()[:1]
    is_json = not (parse_jsonl(first)[1] or "").startswith("not JSON")
    goes_on = first.endswith(("{", "[")) or (first.endswith(",") and below in tuple('"]}'))
    one = parse_jsonl(text)[0] if complete and first.startswith("{") and (goes_on or not below) else None
    if one is not None and (command := _table_in_one_object(one, source, has_pairs)):
        what = f"{source.name}: a table in one JSON object"
        raise InputError(what, expected=_ONE_EACH, do=f"convert it: {command}")
    if first.startswith("{") and not is_json and goes_on:
        what = f"{source.name}: a JSON document of several lines"
        raise InputError(what, expected=_ONE_EACH, do="write each pair as one line")
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        if not is_json and has_pairs([cell.strip('"') for cell in first.split(delimiter)]):
            do = f"give {option('format', kind)}"
            raise InputError(f"{source.name}: looks like a text table", expected=_ONE_EACH, do=do)


def _table_in_one_object(found: Mapping[str, Any], source: Source, has_pairs: HasPairs) -> str | None:
    """The command that makes JSON lines of the only object of a file, if that has all rows."""
    if has_pairs(list(found)):  # it may be a row
        is_table = all(type(column) in (list, dict) for column in found.values())
        return conversions.rows_of_columns(source) if is_table else None
    for key, rows in found.items():
        if type(rows) is list and rows and type(rows[0]) is dict and has_pairs(list(rows[0])):
            return conversions.rows_of_array(source, key)
    return None


# Header


def find_header(head: bytes, told: Dialect, source: Source, has_pairs: HasPairs, end: bytes) -> Header:
    """The header of a text table.

    If the dialect that the format's name says gives no such columns as are wanted, and exactly one other does, that one
    is taken. If none does, the columns are those of the likeliest, for a message. Raises InputError if the first record
    cannot be a header.
    """
    name, kind, before = source.name, source.format.kind, 0
    if told.delimiter is None and (line := _SEPARATOR_LINE.match(head.removeprefix(codecs.BOM_UTF8))):
        told, before = replace(told, delimiter=line[1].decode(errors="replace")), 1
    readings = [(dialect, *_record(head, dialect, before, end)) for dialect in _candidates(kind, told)]
    dialect, text, cells, fault = readings[0]
    note, hint = None, f"if it has no header, give {option('header', 'false')}"
    if any(map(_LIKE_A_ROW.fullmatch, cells or [])):
        hint = f"its first line looks like a row; {hint}"
    elif len(cells or []) == 1:
        do = f"give --delimiter {in_run_file('data.delimiter')}"
        hint = f"if another character is between its cells, {do}; {hint}"

    def found(fields: Sequence[str] | None) -> bool:
        return fields is not None and has_pairs(fields)

    if not told.header:
        if found(cells):
            raise InputError(f"{name}: --no-header", found=f"a header: {listed(cells or [])}", do="omit --no-header")
        labels = [str(number) for number, cell in enumerate(cells or [], 1) if _LABEL.fullmatch(cell.strip())]
        hint = f"column {labels[0]} looks like the labels" if len(labels) == 1 else ""
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
    if told.header and not found(cells):
        hint = _header_below(head, told, source, has_pairs, end) or hint
        if any(map(_BLANK_AND_QUOTE.fullmatch, cells or [])):
            hint = _about_blanks(source, dialect)
    if cells is None:
        do = from_windows(source) if fault == NOT_UTF8 else hint
        raise InputError(f"{name}: unusable header: {fault}", expected="column names in the first line", do=do)
    decided = told.quoting is not None or dialect.delimiter != "\t" or '"' in text
    return Header(dialect, decided, text, _named(cells), before + told.header, note, hint)


def _header_below(head: bytes, told: Dialect, source: Source, has_pairs: HasPairs, end: bytes) -> str | None:
    """What to do if the header is not the first record but one of those below, under a title, a comment or a blank."""
    for dialect in _candidates(source.format.kind, told):
        above = 0  # lines
        for text, cells, _ in islice(_records(head, dialect, end), _MOST_ABOVE):
            if cells is not None and has_pairs(cells):
                hint = f"line {above + 1} looks like the header; if the lines above it are no rows, remove them"
                return hint if end == RETURN else f"{hint}: {conversions.from_line(source, above + 1)}"
            above += text.count("\n") + 1
    return None


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


def _record(head: bytes, dialect: Dialect, number: int, end: bytes) -> Record:
    empty: Record = "", None, "the file is empty"
    return next(islice(_records(head, dialect, end), number, None), empty)


def _records(head: bytes, dialect: Dialect, end: bytes) -> Iterator[Record]:
    lines = Lines([head], keep_returns=dialect.quoted, end=end)
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


def note_of_widths(head: bytes, header: Header, source: Source, end: bytes, most: int) -> str | None:
    """What to do if the first rows all have one cell more than the `most` that the header allows."""
    records = islice(_records(head, header.dialect, end), header.before, _MOST_ABOVE)
    rows = [cells or [] for _, cells, fault in records if fault != BLANK_LINE]
    rows = rows[:-1] or rows  # the last one may be cut off
    if not rows or any(len(cells) != most + 1 for cells in rows):
        return None
    delimiter, do = header.dialect.delimiter or "", "give the missing column a name in the first line"
    if all(cells[0].strip().isdigit() for cells in rows):
        do = f"if they begin with row names, as R writes them, {do}: {conversions.with_named_rows(source, delimiter)}"
    elif not any(cells[-1].strip() for cells in rows):
        do = f"the last one is empty; remove it: {conversions.without_last_cell(source, delimiter)}"
    return f"warning: {source.name}: the first rows have one cell more than the header; {do}"


def note_of_blanks(head: bytes, header: Header, source: Source, end: bytes) -> str | None:
    """What to do if blanks stand before the quotes of cells, which are text then."""
    dialect = header.dialect
    if not dialect.quoted or f'{dialect.delimiter} "'.encode() not in head:
        return None
    for row, (_, cells, _) in enumerate(_records(head, dialect, end), 1 - header.before):
        if any(map(_BLANK_AND_QUOTE.fullmatch, cells or [])):
            return f"warning: {source.name}: row {row}: {_about_blanks(source, dialect)}"
    return None


def _about_blanks(source: Source, dialect: Dialect) -> str:
    command = conversions.without_blanks(source, dialect.delimiter or "")
    return f"blanks stand before quotes, so the quotes are read as text; if they enclose cells, convert it: {command}"


# Quotes


def quoting_of(
    head: bytes, complete: bool, header: Header, width: tuple[int, int], source: Source, end: bytes
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
    for number, (raw, cells, _) in enumerate(_records(head, replace(dialect, quoting="csv"), end)):
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
