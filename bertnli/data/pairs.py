"""Sentence-pair files, read row by row: each record of a file is one row, good or bad, in order.

`PairFile` finds the columns and yields `Row`s in `Chunk`s of fixed size (pair_rows.py). Reading is in two steps, so
that another process can do the second one: `raw_chunks`, and `parse`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import digest
from bertnli.data.arrow_ipc import ipc_schema, ipc_tables
from bertnli.data.arrow_values import holds_text, json_values
from bertnli.data.class_names import class_names
from bertnli.data.columns import (
    PARSE_COLUMNS,
    AmbiguousColumnsError,
    Columns,
    find_columns,
    find_text,
    listed,
    not_read,
    note_of_names,
    numbered_columns,
)
from bertnli.data.dialect import USUAL, Dialect
from bertnli.data.first_bytes import check_binary, check_text
from bertnli.data.formats import BLOCK, Source, UnreadableError, empty
from bertnli.data.json_array import is_array, lines_of_array, may_be_array
from bertnli.data.lines import DOUBLED_RETURN, RETURN, Ahead, Lines, end_of_line
from bertnli.data.outputs import ProblemType
from bertnli.data.pair_rows import Chunk, RawChunk, Row, RowMaker, damaged, widths
from bertnli.data.parquet import parquet_schema, parquet_tables
from bertnli.data.records import (
    NOT_UTF8,
    json_cells,
    json_records,
    parse_cells,
    parse_jsonl,
    table_records,
)
from bertnli.data.run_keys import in_run_file, run_key
from bertnli.data.sniffing import (
    Header,
    check_json,
    find_header,
    from_windows,
    line_end,
    note_of_blanks,
    note_of_encoding,
    note_of_widths,
    quoting_of,
)

if TYPE_CHECKING:
    import pyarrow

_PROBE = 1000  # the columns must be in one of so many JSON lines
_ENDS = {RETURN: "carriage returns alone", DOUBLED_RETURN: "two carriage returns and a line feed"}
_ROWS = 4096  # rows of Parquet and JSON lines that are read at once if the caller gives no number


class PairFile:
    """A file of sentence pairs. Its columns are found and checked when it is opened; its rows are a stream.

    path: a file, a folder that `save_to_disk` made (saved_dataset.py), `archive.zip#member`, or `-` for standard input
    (with `format`). dialect: how a text table is written, as far as the user says it; its format counts if `format` is
    None. prefer_parse: take SNLI's binary-parse columns, without their parentheses, if the file has them; the d2l book
    does so. problem_type: of the model that reads the labels. shown: the name for messages, if it is not the path.
    texts: a row is a single text, which is both sentences of its pair. A file can be read several times, a pipe only
    once.

    Attributes: `name`, for messages; `path`; `member`, of an archive, with a # before it; `format`, one of tsv, csv,
    jsonl (a JSON array too), parquet, arrow; `columns` as found; `fields`, all column names in order (JSONL: of the
    first object that has the columns; those of a pair if it is `without_rows`); `header`, its text (TSV, CSV);
    `schema` (Parquet, Arrow); `class_names`, what the numbers 0, 1, … in the label column mean, if the file says it.

    Raises InputError if the file is missing or empty, if its format or encoding is unknown, or if columns are missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Columns | None = None,
        format: str | None = None,
        dialect: Dialect | None = None,
        prefer_parse: bool = False,
        problem_type: ProblemType = "single_label_classification",
        shown: str | None = None,
        texts: bool = False,
    ):
        self._told = dialect or Dialect()
        self._source = Source(path, format or self._told.format, shown)
        self.name, self.path, self.format = self._source.name, self._source.path, self._source.format.kind
        self.member = f"#{self._source.member}" if self._source.member else ""
        self._wanted, self._prefer_parse = columns or Columns(), prefer_parse
        self._problem_type: ProblemType = problem_type
        self._texts = texts
        self.header = ""
        self.without_rows = False
        self.schema: pyarrow.Schema | None = None
        self.class_names: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._end = b"\n"
        self._is_array = False  # JSON
        self._table: Header | None = None  # of a text table
        self._stream: Ahead | None = None  # until the rows are read for the first time
        self._opened: Iterator[bytes] | None = None  # the same for JSON lines: pieces of complete ones
        if self.format not in USUAL and not self._told.is_like(Dialect()):
            kind = {"parquet": "Parquet", "arrow": "Arrow"}.get(self.format, "JSON lines")
            raise InputError(
                "--delimiter, --quoting, --no-header (in a run file: "
                f"{run_key('data.delimiter')}, {run_key('data.quoting')}, {run_key('data.header')})",
                found=f"{self.name}, which is {kind}",
                expected="a text table",
                do="omit them",
            )
        check_binary(self._source)
        try:
            if self.format in ("parquet", "arrow"):
                with self._source.open_file() as opened:
                    self.schema = (parquet_schema if self.format == "parquet" else ipc_schema)(opened)
                self._resolve(self.schema.names)
                self._check_types(self.schema)
                self.class_names = class_names(self.schema, self.columns.label)
            else:
                self._look()
        except UnreadableError as error:
            raise InputError(f"{self.name}: cannot be read: {error}", do=error.do) from None
        self._rows = RowMaker(
            self.name,
            self.format,
            self.columns,
            self.fields,
            self.class_names,
            from_parse=prefer_parse and (self.columns.premise or "").casefold() == PARSE_COLUMNS[0],
            quoting_told=self._told.quoting is not None,
            notes=self._notes,
        )

    @property
    def rereadable(self) -> bool:
        """Whether it can be read again: it is a file, or a folder of them, and no pipe."""
        return bool(self._source.files)

    def sha256(self) -> str:
        """Of the file's bytes, for a folder of its files' checksums. Raises RunError if it changes meanwhile."""
        found = [digest(Path(file)) for file in self._source.files]
        self.check_unchanged()
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    @property
    def dialect(self) -> Dialect | None:
        """How the text table is written; None for other formats. Waits for the first block of a pipe."""
        self._decide_quoting()
        return self._table and self._table.dialect

    @property
    def notes(self) -> list[str]:
        """What the user should know about how the file is read, a line each. It may have more lines after reading."""
        return [*self._notes, *self._source.notes, *([self._rows.late_note] if self._rows.late_note else [])]

    # The columns

    def _look(self) -> None:
        """Find the columns at the start of a text file. Of a pipe only a line is waited for."""
        self._stream = stream = Ahead(self._source.blocks())
        first = BLOCK if self._source.rereadable else 1
        if self.format == "jsonl" and self._looks_like_array(stream, first):
            self._opened, self._stream = self._probe(self._lines_of_json()), None
            return
        head = stream.look(first)
        if not head and self.format != "jsonl":
            raise empty(self.name)
        check_text(head, self._source)
        self._end = line_end(head)
        if self._end in _ENDS:
            self._notes.append(f"note: {self.name}: its lines end with {_ENDS[self._end]}")
        if note := note_of_encoding(head, stream.all_seen, self._source):
            self._notes.append(note)
        if self.format == "jsonl":
            check_json(head, stream.all_seen, self._source, self._has_pairs)
            self._opened, self._stream = self._probe(self._lines_of_json()), None
            return
        self._table = found = find_header(head, self._told, self._source, self._has_pairs, self._end)
        self.header = found.text
        self._resolve(found.fields, found.hint)
        if found.note:
            self._notes.append(found.note)
        if not self._told.header and self._wanted == Columns():
            roles = {"text": self.columns.premise} if self._texts else asdict(self.columns)
            names = [f"column {name} is the {role}" for role, name in roles.items() if name]
            self._notes.append(f"note: {self.name}: {', '.join(names)}")
        if self._source.rereadable:
            self._decide_quoting()
        if self._table.decided:
            sniffed = (self._table, self._source, self._end)
            notes = (
                note_of_widths(head, *sniffed, widths(self.fields, self.columns, self.format)[1]),
                note_of_blanks(head, *sniffed),
            )
            self._notes += filter(None, notes)

    def _looks_like_array(self, stream: Ahead, first: int) -> bool:
        """Whether it is a JSON array, whose elements are the rows. What a file called .json is, is said.

        first: bytes to look at. Of a pipe more are waited for if its first line is a list.
        """
        head = stream.look(first, longest=BLOCK)
        while may_be_array(head) and not stream.all_seen:
            head = stream.look(len(head) + 1, longest=len(head))
        self._is_array = is_array(head, stream.all_seen)
        if self._is_array:
            self._notes.append(f"note: {self.name}: a JSON array; row 1 is its first element")
        elif head and self._source.is_any_json:
            self._notes.append(f"note: {self.name}: JSON lines; row 1 is its first line")
        return self._is_array

    def _has_pairs(self, fields: Sequence[str]) -> bool:
        try:
            # Without a header the wanted names are numbers.
            wanted = self._wanted if self._told.header else Columns()
            if self._texts:
                find_text(fields, wanted, "")
            else:
                find_columns(fields, wanted, "", prefer_parse=self._prefer_parse)
        except AmbiguousColumnsError:
            return True
        except InputError:
            return False
        return True

    def _decide_quoting(self) -> None:
        """Look at the rows of the first block, if the header did not show whether quotes are text."""
        if self._table is None or self._table.decided or self._stream is None:
            return
        head = self._stream.look(BLOCK)
        complete = self._stream.all_seen
        quoting, note = quoting_of(
            head, complete, self._table, widths(self.fields, self.columns, self.format), self._source, self._end
        )
        dialect = replace(self._table.dialect, quoting=quoting)
        self._table = self._table._replace(dialect=dialect, decided=True)
        if note:
            self._notes.append(note)

    def _json_pieces(self) -> Iterator[bytes]:
        """The lines of a JSON lines file, some complete ones at a time, from the beginning."""
        found, self._opened = self._opened, None
        return found or self._probe(self._lines_of_json())

    def _lines_of_json(self) -> Iterator[bytes]:
        """The lines of JSON lines, or the elements of an array as such lines."""
        if self._is_array:
            return lines_of_array(self._blocks())
        return Lines(self._blocks(), end=self._end).pieces()

    def _blocks(self) -> Iterable[bytes]:
        """The blocks that were looked at and what follows, or those of a file that is read again."""
        stream, self._stream = self._stream, None
        if stream is None and not self._source.rereadable:
            raise InputError(f"{self.name}: a pipe can be read only once", do="write it to a file first")
        return self._source.blocks() if stream is None else stream

    def _probe(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Find the columns in the first JSON object that has them. Returns all pieces, the first ones included."""
        pieces, again = tee(pieces)
        found = chain.from_iterable(map(json_records, pieces))
        probed, first_error = [], None
        for record in islice(found, _PROBE):
            probed.append(record)
            if record[1] is not None:
                try:
                    self._resolve(list(record[1]))
                    return again
                except AmbiguousColumnsError:
                    raise
                except InputError as error:
                    first_error = first_error or error
        if not probed:  # a file without a row; its output in another format has columns, so that it can be read again
            premise, hypothesis = self._wanted.premise or "premise", self._wanted.hypothesis or "hypothesis"
            self.columns = Columns(premise, hypothesis, self._wanted.label)
            if self._texts:
                self.columns = Columns(self._wanted.premise or "text", self._wanted.premise or "text")
            self.fields = [*dict.fromkeys(name for name in asdict(self.columns).values() if name is not None)]
            self.without_rows = True
            return again
        part, example = ("element", "a pair in each element") if self._is_array else ("line", "one object in each line")
        raise first_error or InputError(
            f"{self.name}: no JSON object in the first {len(probed)} {part}s",
            found=f"{part} 1: {probed[0][2]}",
            expected=f'{example}, such as {{"premise": "…", "hypothesis": "…"}}',
            do=from_windows(self._source) if probed[0][2] == NOT_UTF8 else None,
        )

    def _resolve(self, fields: list[str], hint: str = "") -> None:
        twice = sorted(name for name, times in Counter(fields).items() if times > 1)
        if twice:
            raise InputError(f"{self.name}: two columns have the same name", found=listed(twice), do="rename one")
        if self._texts:
            self.columns = find_text(fields, self._wanted, self.name, hint)
        elif not self._told.header and self._wanted == Columns():
            self.columns = numbered_columns(fields, self.name, hint)
        else:
            options: dict[str, Any] = {"prefer_parse": self._prefer_parse, "problem_type": self._problem_type}
            self.columns = find_columns(fields, self._wanted, self.name, hint=hint, **options)
            taken = note_of_names(self._wanted, self.columns)
            for note in filter(None, (taken, *not_read(fields, self._wanted, self.columns))):
                self._note(f"note: {self.name}: {note}")
        self.fields = fields

    def _note(self, note: str) -> None:
        if note not in self._notes:  # JSON lines that are read again are looked at again
            self._notes.append(note)

    def _check_types(self, schema: pyarrow.Schema) -> None:
        for column, name in (("--premise", self.columns.premise), ("--hypothesis", self.columns.hypothesis)):
            kind = schema.field(name).type
            if not holds_text(kind):
                raise InputError(
                    f"{self.name}: column {name!r}",
                    found=f"type {kind}",
                    expected="text",
                    do=f"write it as text in the program that made the file, or name another column with {column} "
                    f"{in_run_file('data.columns')}",
                )

    # The rows

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The rows in chunks of `size`; the last one may be shorter. A file is always cut at the same places.

        Raises RunError that names the last row read if the file is damaged.
        """
        return map(self.parse, self.raw_chunks(size))

    def raw_chunks(self, size: int) -> Iterator[RawChunk]:
        """`chunks` before `parse`."""
        if self.schema is not None:
            yield from self._tables(size, None)
        elif self.format == "jsonl":
            yield from self._lines(size)
        else:
            rows = self._text_rows()  # one after another: what a row is may depend on those above
            while chunk := list(islice(rows, size)):
                yield RawChunk(chunk[0].number, len(chunk), chunk)

    def parse(self, raw: RawChunk) -> Chunk:
        """The rows of a chunk. A copy of this object in another process can do it as well."""
        if isinstance(raw.records, bytes):
            return Chunk(list(self._rows.of_json(json_records(raw.records), raw.first)), None)
        if isinstance(raw.records, list):
            return Chunk(raw.records, None)
        return Chunk(list(self._rows.of_batch(raw.records, raw.first)), raw.records)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which does not go on with reading where this one is."""
        return self.__dict__ | {"_opened": None, "_stream": None}

    def rows(self) -> Iterator[Row]:
        """The rows one by one. Raises as `chunks` does."""
        if self.schema is not None:
            needed = [name for name in (self.columns.premise, self.columns.hypothesis, self.columns.label) if name]
            for raw in self._tables(_ROWS, needed):
                yield from self.parse(raw).rows
        elif self.format == "jsonl":
            for raw in self._lines(_ROWS):
                yield from self.parse(raw).rows
        else:
            yield from self._text_rows()

    def check_unchanged(self) -> None:
        """Raise RunError if the file is not as it was when this object was made. A pipe is not looked at."""
        self._source.check_unchanged()

    def values(self, chunk: Chunk, *, as_written: bool = False) -> list[dict[str, Any] | None]:
        """The complete records of a chunk, by column name; None for a record that was not parsed.

        as_written: of JSON lines, what is not text is the JSON text that the file has (see `json_cells`).
        Raises RunError if a Parquet column has a type that cannot be written as text.
        """
        if chunk.table is not None:
            names = chunk.table.schema.names
            try:
                columns = [json_values(column) for column in chunk.table.columns]
            except UnreadableError as error:
                raise RunError(f"{self.name}: {error}", do="remove that column, or write .parquet") from None
            return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if self.format == "jsonl":
            parsed = json_cells if as_written else lambda text: parse_jsonl(text)[0]
            return [parsed(row.raw) if row.parsed else None for row in chunk.rows]
        dialect = self.dialect or Dialect()
        delimiter, quoted = dialect.delimiter or "", dialect.quoted
        records = [parse_cells(row.raw, delimiter, quoted) if row.parsed else None for row in chunk.rows]
        # strict=False: some lines of SNLI have fewer cells
        return [None if cells is None else dict(zip(self.fields, cells, strict=False)) for cells in records]

    def _text_rows(self) -> Iterator[Row]:
        self._decide_quoting()
        assert self._table is not None
        dialect = self._table.dialect
        lines = Lines(self._blocks(), keep_returns=dialect.quoted, end=self._end)
        found = table_records(lines, dialect.delimiter or "", dialect.quoted)
        for _ in islice(found, self._table.before):
            pass
        yield from self._rows.of_table(found, dialect)

    def _lines(self, size: int) -> Iterator[RawChunk]:
        """JSON lines, `size` at a time; no line is looked into."""
        first, count = 1, 0  # the first row of the next chunk; its lines so far
        pending: list[bytes] = []
        try:
            for piece in self._json_pieces():
                lines = piece.count(b"\n") + (not piece.endswith(b"\n"))
                while count + lines >= size:
                    end = end_of_line(piece, size - count)
                    yield RawChunk(first, size, b"".join([*pending, piece[:end]]))
                    piece, lines = piece[end:], count + lines - size
                    first, count, pending = first + size, 0, []
                pending.append(piece)
                count += lines
        except UnreadableError as error:
            raise damaged(self.name, first - 1 + count, error) from None
        if count:
            yield RawChunk(first, count, b"".join(pending))

    def _tables(self, size: int, needed: list[str] | None) -> Iterator[RawChunk]:
        first = 1
        try:
            with closing(self._source.open_files()) as files:
                arrow = self.format == "arrow"
                several = len(self._source.files) > 1
                tables = (
                    ipc_tables(files, size, needed, several=several)
                    if arrow
                    else parquet_tables(next(files), size, needed)
                )
                for table in tables:
                    yield RawChunk(first, table.num_rows, table)
                    first += table.num_rows
        except UnreadableError as error:
            raise damaged(self.name, first - 1, error) from None
