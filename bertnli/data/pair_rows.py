"""Rows of sentence pairs: what the records of a file become, good or bad, each in its place.

`PairFile` (pairs.py) finds the columns; `RowMaker` takes the cells from them and says why a record cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common.errors import RunError
from bertnli.data.arrow_values import json_values
from bertnli.data.class_names import class_of
from bertnli.data.column_names import LABEL_COLUMNS
from bertnli.data.columns import Columns, HeaderRows, fault_of, label_text, listed, words_of_parse
from bertnli.data.dialect import Dialect, option
from bertnli.data.formats import UnreadableError
from bertnli.data.records import Record, has_key_twice, is_text
from bertnli.data.sniffing import looks_written

if TYPE_CHECKING:
    import pyarrow

# A line of SNLI's and MultiNLI's .txt may end before these columns: most pairs have one annotator, not five.
_ANNOTATORS = ("label2", "label3", "label4", "label5")


class Row(NamedTuple):  # a NamedTuple is created three times as fast as a frozen dataclass
    """One record of the file."""

    number: int  # 1-based; the header is not counted
    premise: str | None
    hypothesis: str | None
    label: (
        str | None
    )  # text of the label cell, or the name that the file's metadata gives its number; None if it is null
    # or blank, or if there is no label column
    error: str | None  # why this pair cannot be used, in one short sentence; None for a good row
    raw: str  # text formats: the record's text without its line end; Parquet: ""
    parsed: bool  # False if the record could not be split into cells


@dataclass(frozen=True, slots=True)
class RawChunk:
    """Consecutive records as `PairFile.parse` takes them. `first`: the number of the first row; `size`: rows."""

    first: int
    size: int
    records: bytes | list[Row] | pyarrow.RecordBatch
    """JSON: the lines themselves, or elements as lines; TSV and CSV: the rows; Parquet and Arrow: an Arrow batch."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows; for Parquet and Arrow also their complete records as an Arrow batch of as many rows."""

    rows: list[Row]
    table: pyarrow.RecordBatch | None


def places(fields: Sequence[str], columns: Columns) -> tuple[int, int, int]:
    """The places of premise, hypothesis and label in a row's cells; -1 for no label."""
    premise, hypothesis, label = (
        -1 if name is None else fields.index(name) for name in (columns.premise, columns.hypothesis, columns.label)
    )
    return premise, hypothesis, label


def widths(fields: Sequence[str], columns: Columns, kind: str) -> tuple[int, int]:
    """The least and the most cells of a row. kind: of the table, tsv or csv."""
    most = least = len(fields)
    if kind == "tsv":
        while least > 1 + max(places(fields, columns)) and fields[least - 1] in _ANNOTATORS:
            least -= 1
    return least, most


def damaged(name: str, number: int, error: UnreadableError) -> RunError:
    """The error for a file that is damaged behind row `number`."""
    return RunError(f"{name}: cannot be read beyond row {number}: {error}", do=error.do)


@dataclass
class RowMaker:
    """What is known of a file when its rows are made. Another process can have a copy.

    name: for messages. kind: jsonl, tsv, …. from_parse: the sentences are binary parses. quoting_told: the user said
    how cells are quoted. notes: what was said of the file before. late_note: what only its rows showed.
    """

    name: str
    kind: str
    columns: Columns
    fields: Sequence[str]
    class_names: Sequence[str]
    from_parse: bool
    quoting_told: bool
    notes: Sequence[str] = field(default_factory=list)
    late_note: str | None = None

    def of_table(self, found: Iterable[Record], dialect: Dialect) -> Iterator[Row]:
        """The rows of a text table, of its records below the header. Raises RunError for damage."""
        premise_at, hypothesis_at, label_at = places(self.fields, self.columns)
        least, most = widths(self.fields, self.columns, self.kind)
        headers = HeaderRows(self.fields, self.columns)
        words, below_other = headers.words, 0
        look_for_quotes = not self.quoting_told and not dialect.quoted
        as_it_is, number = not self.from_parse, 0
        first_written = written = 0
        try:
            for number, (raw, cells, fault) in enumerate(found, 1):  # after the loop: the last row
                if cells is None:
                    yield Row(number, None, None, None, fault, raw, False)
                elif not least <= len(cells) <= most:
                    yield Row(number, None, None, None, f"{len(cells)} cells, expected {most}", raw, False)
                else:
                    premise, hypothesis = cells[premise_at], cells[hypothesis_at]
                    label = cells[label_at] if label_at >= 0 else None
                    if premise in words or hypothesis in words or below_other:
                        kind = headers.kind(cells)
                        below_other = {"same": 0, "other": number, None: below_other}[kind]
                        if kind or below_other:
                            yield Row(number, None, None, None, _header_fault(kind, below_other), raw, False)
                            continue
                    if look_for_quotes and '"' in raw and any(map(looks_written, (premise, hypothesis))):
                        written, first_written = written + 1, first_written or number
                    if as_it_is and premise.strip() and hypothesis.strip() and "\0" not in raw:
                        if label is not None and not label.strip():
                            label = None
                        yield Row(number, premise, hypothesis, label, None, raw, True)
                    else:
                        yield self._row(number, premise, hypothesis, label, raw)
        except UnreadableError as error:
            raise damaged(self.name, number, error) from None
        if written and not any(note.startswith("warning") for note in self.notes):
            found_in = f"{written} {'row' if written == 1 else 'rows'} (the first is row {first_written})"
            self.late_note = f"warning: {self.name}: cells of {found_in} are in quotes as pandas and Excel write them, "
            self.late_note += (
                f"and are read with the quotes; if they only enclose cells, give {option('quoting', 'csv')}"
            )

    def of_json(self, found: Iterable[Record], first: int) -> Iterator[Row]:
        """The rows of JSON objects. first: the number of the first one."""
        premise_key, hypothesis_key, label_key = self.columns.premise, self.columns.hypothesis, self.columns.label
        signs = [(key, f'"{key}"') for key in (premise_key, hypothesis_key, label_key) if key is not None]
        for number, (raw, cells, fault) in enumerate(found, first):
            if cells is None:
                yield Row(number, None, None, None, fault, raw, False)
                continue
            if twice := [key for key, sign in signs if raw.count(sign) > 1 and has_key_twice(raw, key)]:
                yield Row(number, None, None, None, f"two keys {twice[0]!r}", raw, True)
                continue
            premise, hypothesis, label = cells.get(premise_key), cells.get(hypothesis_key), cells.get(label_key)
            if label is None and label_key and self.late_note is None and label_key not in cells:
                self.late_note = self._note_of_another_label(number, cells)
            # Without an escape there is no NUL character and no half of a surrogate pair in the texts.
            as_it_is = type(premise) is type(hypothesis) is str and "\\u" not in raw and not self.from_parse
            if as_it_is and premise.strip() and hypothesis.strip():
                yield Row(number, premise, hypothesis, label_text(label), None, raw, True)
                continue
            row = self._row(number, premise, hypothesis, label, raw)
            missing = [key for key in (premise_key, hypothesis_key) if key not in cells] if row.error else None
            yield row._replace(error=f"no key {missing[0]!r}") if missing else row

    def _note_of_another_label(self, number: int, cells: dict[str, Any]) -> str | None:
        """What to say of a JSON object without the label's key if it has one of another name."""
        if not (others := [name for name in cells if name.strip().casefold() in LABEL_COLUMNS]):
            return None
        missing = f"has no {self.columns.label!r}, and so no label, but {listed(others)}"
        return f"warning: {self.name}: row {number} {missing}; the file may be several that were put together"

    def of_batch(self, table: pyarrow.RecordBatch, first: int) -> Iterator[Row]:
        """The rows of an Arrow batch. first: the number of the first one. Raises RunError for damage."""
        try:
            columns = [
                [None] * table.num_rows if name is None else json_values(table.column(name), "surrogateescape")
                for name in (self.columns.premise, self.columns.hypothesis, self.columns.label)
            ]
        except UnreadableError as error:
            raise damaged(self.name, first - 1, error) from None
        for number, (premise, hypothesis, label) in enumerate(zip(*columns, strict=True), first):
            yield self._row(number, premise, hypothesis, label, "")

    def _row(self, number: int, premise: Any, hypothesis: Any, label: Any, raw: str) -> Row:
        if self.from_parse:
            premise, hypothesis = words_of_parse(premise), words_of_parse(hypothesis)
        error = fault_of("premise", premise) or fault_of("hypothesis", hypothesis)
        if error:
            premise, hypothesis = (text if is_text(text) else None for text in (premise, hypothesis))
        text = label_text(label)
        if self.class_names:
            text = class_of(text, self.class_names)
        return Row(number, premise, hypothesis, text, error, raw, True)


def _header_fault(kind: str | None, below_other: int) -> str:
    if kind == "same":
        return "a second header; the file may be several that were put together"
    return f"{'a' if kind else f'below a (row {below_other})'} header with other columns; split the file there"
