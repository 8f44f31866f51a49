"""Sentence-pair files, read row by row: each record of a file is one row, good or bad, in order.

`PairFile` finds the columns and yields `Row`s in `Chunk`s of fixed size. A row that cannot be used keeps its number and
says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common.errors import InputError, RunError
from bertnli.data.arrow_values import holds_text, json_values
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
from bertnli.data.formats import Lines, Source, UnreadableError
from bertnli.data.parquet import parquet_schema, parquet_tables
from bertnli.data.records import Record, parse_csv, parse_jsonl, parse_tsv, records

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
        self._opened: Iterator[Record] | None = None  # the records, until they are read for the first time
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

    def _open(self) -> Iterator[Record]:
        """The records of a text format after its header."""
        found = records(Lines(self._source, keep_returns=self.format == "csv"), self.format)
        if self.format == "jsonl":
            return self._probe(found)
        self.header, cells, fault = next(found, ("", None, "the file is empty"))
        if cells is None:
            raise InputError(f"{self.name}: unusable header: {fault}", expected="column names in the first line")
        self._resolve(cells)
        return found

    def _probe(self, found: Iterator[Record]) -> Iterator[Record]:
        """Find the columns in the first JSON object that has them. Returns all records, the first ones included."""
        probed, first_error = [], None
        for record in islice(found, _PROBE):
            probed.append(record)
            if record[1] is not None:
                try:
                    self._resolve(list(record[1]))
                    return chain(probed, found)
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
        for option, name in (("--premise", self.columns.premise), ("--hypothesis", self.columns.hypothesis)):
            kind = schema.field(name).type
            if not holds_text(kind):
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
        if self.format == "parquet":
            yield from self._parquet_chunks(size, None)
        else:
            rows = self._text_rows()
            while chunk := list(islice(rows, size)):
                yield Chunk(chunk, None)

    def rows(self) -> Iterator[Row]:
        """The rows one by one. Raises as `chunks` does."""
        if self.format == "parquet":
            needed = [name for name in (self.columns.premise, self.columns.hypothesis, self.columns.label) if name]
            for chunk in self._parquet_chunks(_ROWS, needed):
                yield from chunk.rows
        else:
            yield from self._text_rows()

    def values(self, chunk: Chunk) -> list[dict[str, Any] | None]:
        """The complete records of a chunk, by column name; None for a record that was not parsed.

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
            return [parse_jsonl(row.raw)[0] if row.parsed else None for row in chunk.rows]
        parse = parse_csv if self.format == "csv" else parse_tsv
        # strict=False: some lines of SNLI have fewer cells
        return [dict(zip(self.fields, parse(row.raw), strict=False)) if row.parsed else None for row in chunk.rows]

    def _text_rows(self) -> Iterator[Row]:
        found, self._opened = self._opened, None
        if found is None:
            if not self._source.rereadable:
                raise InputError(f"{self.name}: a pipe can be read only once", do="write it to a file first")
            found = self._open()
        yield from self._json_rows(found) if self.format == "jsonl" else self._delimited_rows(found)

    def _delimited_rows(self, found: Iterable[Record]) -> Iterator[Row]:
        premise_at, hypothesis_at, label_at = (
            -1 if name is None else self.fields.index(name)
            for name in (self.columns.premise, self.columns.hypothesis, self.columns.label)
        )
        most = least = len(self.fields)
        if self.format == "tsv":
            while least > 1 + max(premise_at, hypothesis_at, label_at) and self.fields[least - 1] in _ANNOTATORS:
                least -= 1
        as_it_is, number = not self._from_parse, 0
        try:
            for number, (raw, cells, fault) in enumerate(found, 1):  # after the loop: the last row
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
        except UnreadableError as error:
            raise self._damaged(number, error) from None

    def _json_rows(self, found: Iterable[Record]) -> Iterator[Row]:
        premise, hypothesis, label = self.columns.premise, self.columns.hypothesis, self.columns.label
        number = 0
        try:
            for number, (raw, cells, fault) in enumerate(found, 1):
                if cells is None:
                    yield Row(number, None, None, None, fault, raw, False)
                else:
                    row = self._row(number, cells.get(premise), cells.get(hypothesis), cells.get(label), raw)
                    missing = [name for name in (premise, hypothesis) if name not in cells] if row.error else None
                    yield row._replace(error=f"no key {missing[0]!r}") if missing else row
        except UnreadableError as error:
            raise self._damaged(number, error) from None

    def _parquet_chunks(self, size: int, needed: list[str] | None) -> Iterator[Chunk]:
        number = 0
        wanted = (self.columns.premise, self.columns.hypothesis, self.columns.label)
        try:
            for table in parquet_tables(self.path, size, needed):
                columns = [
                    [None] * table.num_rows if name is None else json_values(table.column(name), "surrogateescape")
                    for name in wanted
                ]
                rows = [
                    self._row(number + at, premise, hypothesis, label, "")
                    for at, (premise, hypothesis, label) in enumerate(zip(*columns, strict=True), 1)
                ]
                number += len(rows)
                yield Chunk(rows, table)
        except UnreadableError as error:
            raise self._damaged(number, error) from None

    def _damaged(self, number: int, error: UnreadableError) -> RunError:
        return RunError(f"{self.name}: cannot be read beyond row {number}: {error}", do="get the file again, or fix it")

    def _row(self, number: int, premise: Any, hypothesis: Any, label: Any, raw: str) -> Row:
        if self._from_parse:
            premise, hypothesis = words_of_parse(premise), words_of_parse(hypothesis)
        error = fault_of("premise", premise) or fault_of("hypothesis", hypothesis)
        if error:
            premise, hypothesis = (text if is_text(text) else None for text in (premise, hypothesis))
        return Row(number, premise, hypothesis, label_text(label), error, raw, True)
