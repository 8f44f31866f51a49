"""Sentence-pair files, read row by row: each record of a file is one row, good or bad, in order.

`PairFile` finds the columns and yields `Row`s in `Chunk`s of fixed size. A row that cannot be used keeps its number and
says why. Reading is in two steps, so that another process can do the second one: `raw_chunks`, and `parse`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, tee
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common.errors import InputError, RunError
from bertnli.data.columns import (
    PARSE_COLUMNS,
    Columns,
    fault_of,
    find_columns,
    is_text,
    label_text,
    listed,
    words_of_parse,
)
from bertnli.data.formats import Lines, Source, UnreadableError, end_of_line
from bertnli.data.records import (
    Record,
    line_records,
    parquet_cells,
    parquet_schema,
    parquet_tables,
    parse_csv,
    parse_jsonl,
    parse_tsv,
    records,
)

if TYPE_CHECKING:
    import pyarrow

_PROBE = 1000  # the columns must be in one of so many JSON lines
_ROWS = 4096  # Parquet rows that are read at once if the caller gives no number
# A line of SNLI's and MultiNLI's .txt may end before these columns: most pairs have one annotator, not five.
_ANNOTATORS = ("label2", "label3", "label4", "label5")


class Row(NamedTuple):  # a NamedTuple is created three times as fast as a frozen dataclass
    """One record of the file."""

    number: int  # 1-based; the header is not counted
    premise: str | None
    hypothesis: str | None
    label: str | None  # text of the label cell; None if it is null or blank, or if there is no label column
    error: str | None  # why this pair cannot be used, in one short sentence; None for a good row
    raw: str  # text formats: the record's text without its line end; Parquet: ""
    parsed: bool  # False if the record could not be split into cells


@dataclass(frozen=True, slots=True)
class RawChunk:
    """Consecutive records as `PairFile.parse` takes them. `first`: the number of the first row; `size`: rows."""

    first: int
    size: int
    records: bytes | list[Record] | pyarrow.RecordBatch
    """JSON lines: the lines themselves; TSV and CSV: the records; Parquet: an Arrow batch."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows; for Parquet also their complete records as one Arrow batch with the same number of rows."""

    rows: list[Row]
    table: pyarrow.RecordBatch | None


class PairFile:
    """A file of sentence pairs. Its columns are found and checked when it is opened; its rows are a stream.

    path: a file, `archive.zip#member`, or `-` for standard input (with `format`). prefer_parse: take SNLI's
    binary-parse columns, without their parentheses, if the file has them; the d2l book does so. A file can be read
    several times, a pipe only once.

    Attributes: `name`, for messages; `path`; `format`, one of tsv, csv, jsonl, parquet; `columns` as found; `fields`,
    all column names in order (JSONL: of the first object that has the columns); `header`, the text of the header (TSV,
    CSV); `schema` (Parquet).

    Raises InputError if the file is missing or empty, if its format or encoding is unknown, or if columns are missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Columns | None = None,
        format: str | None = None,
        prefer_parse: bool = False,
    ):
        self._source = Source(path, format)
        self.name, self.path, self.format = self._source.name, self._source.path, self._source.format.kind
        self._wanted, self._prefer_parse = columns or Columns(), prefer_parse
        self.header = ""
        self.schema: pyarrow.Schema | None = None
        # The records, or for JSON lines pieces of complete lines, until they are read for the first time.
        self._opened: Iterator[Any] | None = None
        try:
            if self.format == "parquet":
                self.schema = parquet_schema(self.path)
                self._resolve(self.schema.names)
                self._check_types(self.schema)
            else:
                self._opened = self._open()
        except UnreadableError as error:
            raise InputError(f"{self.name}: cannot be read: {error}", do="get the file again, or fix it") from None
        self._from_parse = prefer_parse and (self.columns.premise or "").casefold() == PARSE_COLUMNS[0]

    # The columns

    def _open(self) -> Iterator[Any]:
        """The records of TSV or CSV after the header, or all of JSON lines, in pieces of complete lines."""
        lines = Lines(self._source, keep_returns=self.format == "csv")
        if self.format == "jsonl":
            return self._probe(lines.pieces())
        found = records(lines, self.format)
        self.header, cells, fault = next(found, ("", None, "the file is empty"))
        if cells is None:
            raise InputError(f"{self.name}: unusable header: {fault}", expected="column names in the first line")
        self._resolve(cells)
        return found

    def _probe(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Find the columns in the first JSON object that has them. Returns all pieces, the first ones included."""
        pieces, again = tee(pieces)
        found = chain.from_iterable(line_records(piece, "jsonl") for piece in pieces)
        probed, first_error = [], None
        for record in islice(found, _PROBE):
            probed.append(record)
            if record[1] is not None:
                try:
                    self._resolve(list(record[1]))
                    return again
                except InputError as error:
                    first_error = first_error or error
        if not probed:
            raise InputError(f"{self.name}: the file is empty", do="check the program that wrote it")
        raise first_error or InputError(
            f"{self.name}: no JSON object in the first {len(probed)} lines",
            found=f"line 1: {probed[0][2]}",
            expected='one object in each line, such as {"premise": "…", "hypothesis": "…"}',
        )

    def _resolve(self, fields: list[str]) -> None:
        twice = sorted({name for name in fields if fields.count(name) > 1})
        if twice:
            raise InputError(f"{self.name}: two columns have the same name", found=listed(twice), do="rename one")
        self.columns = find_columns(fields, self._wanted, self.name, prefer_parse=self._prefer_parse)
        self.fields = fields

    def _check_types(self, schema: pyarrow.Schema) -> None:
        import pyarrow.types as types

        for option, name in (("--premise", self.columns.premise), ("--hypothesis", self.columns.hypothesis)):
            kind = schema.field(name).type
            text = kind.value_type if types.is_dictionary(kind) else kind
            if not (types.is_string(text) or types.is_large_string(text)):
                raise InputError(
                    f"{self.name}: column {name!r}",
                    found=f"type {kind}",
                    expected="text",
                    do=f"name another with {option} (in a run file: data.columns)",
                )

    # The rows

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The rows in chunks of `size`; the last one may be shorter. A file is always cut at the same places.

        Raises RunError that names the last row read if the file is damaged.
        """
        return map(self.parse, self.raw_chunks(size))

    def raw_chunks(self, size: int) -> Iterator[RawChunk]:
        """`chunks` before `parse`."""
        if self.format == "parquet":
            yield from self._tables(size, None)
        elif self.format == "jsonl":
            yield from self._lines(size)
        else:
            found, first = self._undamaged(self._take_opened()), 1
            while chunk := list(islice(found, size)):
                yield RawChunk(first, len(chunk), chunk)
                first += len(chunk)

    def parse(self, raw: RawChunk) -> Chunk:
        """The rows of a chunk. A copy of this object in another process can do it as well."""
        if isinstance(raw.records, bytes):
            return Chunk(list(self._json_rows(line_records(raw.records, "jsonl"), raw.first)), None)
        if isinstance(raw.records, list):
            return Chunk(list(self._delimited_rows(raw.records, raw.first)), None)
        return Chunk(list(self._table_rows(raw.records, raw.first)), raw.records)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which does not go on with reading where this one is."""
        return self.__dict__ | {"_opened": None}

    def rows(self) -> Iterator[Row]:
        """The rows one by one. Raises as `chunks` does."""
        if self.format == "parquet":
            needed = [name for name in (self.columns.premise, self.columns.hypothesis, self.columns.label) if name]
            for raw in self._tables(_ROWS, needed):
                yield from self.parse(raw).rows
        elif self.format == "jsonl":
            lines = chain.from_iterable(line_records(piece, "jsonl") for piece in self._take_opened())
            yield from self._json_rows(self._undamaged(lines), 1)
        else:
            yield from self._delimited_rows(self._undamaged(self._take_opened()), 1)

    def values(self, chunk: Chunk) -> list[dict[str, Any] | None]:
        """The complete records of a chunk, by column name; None for a record that was not parsed.

        Raises RunError if a Parquet column has a type that cannot be written as text.
        """
        if chunk.table is not None:
            names = chunk.table.schema.names
            try:
                columns = [parquet_cells(column) for column in chunk.table.columns]
            except UnreadableError as error:
                raise RunError(f"{self.name}: {error}", do="remove that column, or write .parquet") from None
            return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if self.format == "jsonl":
            return [parse_jsonl(row.raw)[0] if row.parsed else None for row in chunk.rows]
        parse = parse_csv if self.format == "csv" else parse_tsv
        # strict=False: some lines of SNLI have fewer cells
        return [dict(zip(self.fields, parse(row.raw), strict=False)) if row.parsed else None for row in chunk.rows]

    def _take_opened(self) -> Iterator[Any]:
        """What `_open` returns, from the beginning of the file."""
        found, self._opened = self._opened, None
        if found is None:
            if not self._source.rereadable:
                raise InputError(f"{self.name}: a pipe can be read only once", do="write it to a file first")
            found = self._open()
        return found

    def _lines(self, size: int) -> Iterator[RawChunk]:
        """JSON lines, `size` at a time; no line is looked into."""
        first, count = 1, 0  # the first row of the next chunk; its lines so far
        pending: list[bytes] = []
        try:
            for piece in self._take_opened():
                lines = piece.count(b"\n") + (not piece.endswith(b"\n"))
                while count + lines >= size:
                    end = end_of_line(piece, size - count)
                    yield RawChunk(first, size, b"".join([*pending, piece[:end]]))
                    piece, lines = piece[end:], count + lines - size
                    first, count, pending = first + size, 0, []
                pending.append(piece)
                count += lines
        except UnreadableError as error:
            raise self._damaged(first - 1 + count, error) from None
        if count:
            yield RawChunk(first, count, b"".join(pending))

    def _tables(self, size: int, needed: list[str] | None) -> Iterator[RawChunk]:
        first = 1
        try:
            for table in parquet_tables(self.path, size, needed):
                yield RawChunk(first, table.num_rows, table)
                first += table.num_rows
        except UnreadableError as error:
            raise self._damaged(first - 1, error) from None

    def _delimited_rows(self, found: Iterable[Record], first: int) -> Iterator[Row]:
        premise_at, hypothesis_at, label_at = (
            -1 if name is None else self.fields.index(name)
            for name in (self.columns.premise, self.columns.hypothesis, self.columns.label)
        )
        most = least = len(self.fields)
        if self.format == "tsv":
            while least > 1 + max(premise_at, hypothesis_at, label_at) and self.fields[least - 1] in _ANNOTATORS:
                least -= 1
        as_it_is = not self._from_parse
        for number, (raw, cells, fault) in enumerate(found, first):
            if cells is None:
                yield Row(number, None, None, None, fault, raw, False)
            elif not least <= len(cells) <= most:
                yield Row(number, None, None, None, f"{len(cells)} cells, expected {most}", raw, False)
            else:
                premise, hypothesis = cells[premise_at], cells[hypothesis_at]
                label = cells[label_at] if label_at >= 0 else None
                if as_it_is and premise.strip() and hypothesis.strip() and "\0" not in raw:
                    if label is not None and not label.strip():
                        label = None
                    yield Row(number, premise, hypothesis, label, None, raw, True)
                else:
                    yield self._row(number, premise, hypothesis, label, raw)

    def _json_rows(self, found: Iterable[Record], first: int) -> Iterator[Row]:
        premise_key, hypothesis_key, label_key = self.columns.premise, self.columns.hypothesis, self.columns.label
        for number, (raw, cells, fault) in enumerate(found, first):
            if cells is None:
                yield Row(number, None, None, None, fault, raw, False)
                continue
            premise, hypothesis, label = cells.get(premise_key), cells.get(hypothesis_key), cells.get(label_key)
            # Without an escape there is no NUL character and no half of a surrogate pair in the texts.
            as_it_is = type(premise) is type(hypothesis) is str and "\\u" not in raw and not self._from_parse
            if as_it_is and premise.strip() and hypothesis.strip():
                yield Row(number, premise, hypothesis, label_text(label), None, raw, True)
                continue
            row = self._row(number, premise, hypothesis, label, raw)
            missing = [key for key in (premise_key, hypothesis_key) if key not in cells] if row.error else None
            yield row._replace(error=f"no key {missing[0]!r}") if missing else row

    def _table_rows(self, table: pyarrow.RecordBatch, first: int) -> Iterator[Row]:
        try:
            columns = [
                [None] * table.num_rows if name is None else parquet_cells(table.column(name), "surrogateescape")
                for name in (self.columns.premise, self.columns.hypothesis, self.columns.label)
            ]
        except UnreadableError as error:
            raise self._damaged(first - 1, error) from None
        for number, (premise, hypothesis, label) in enumerate(zip(*columns, strict=True), first):
            yield self._row(number, premise, hypothesis, label, "")

    def _undamaged(self, found: Iterable[Record]) -> Iterator[Record]:
        """`found`, with an error that names the row for one that does not."""
        read = 0
        try:
            for record in found:
                yield record
                read += 1
        except UnreadableError as error:
            raise self._damaged(read, error) from None

    def _damaged(self, number: int, error: UnreadableError) -> RunError:
        return RunError(f"{self.name}: cannot be read beyond row {number}: {error}", do="get the file again, or fix it")

    def _row(self, number: int, premise: Any, hypothesis: Any, label: Any, raw: str) -> Row:
        if self._from_parse:
            premise, hypothesis = words_of_parse(premise), words_of_parse(hypothesis)
        error = fault_of("premise", premise) or fault_of("hypothesis", hypothesis)
        if error:
            premise, hypothesis = (text if is_text(text) else None for text in (premise, hypothesis))
        return Row(number, premise, hypothesis, label_text(label), error, raw, True)
