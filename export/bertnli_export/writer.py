"""The output of scoring: one row for each input row, with the input's columns unchanged and some added.

The added columns are `prediction`, a `p_<label>` for each label, `truncated` and `error`, with `--prefix` before each.
If input and output have the same text format, the text of each record is copied byte for byte, and the added cells
follow it. Between formats cells are converted: what is not text becomes JSON text in TSV and CSV, and every column of a
text format becomes text in Parquet. The cells of Parquet have forms that can be read back: see data/arrow_values.py.
Lines end with a line feed; probabilities have six decimals in every format.

`raw`, another added column, holds the complete record where the columns cannot: its text if it could not be parsed, a
JSON object if it has keys beyond the header or, on the way to TSV, tabs or line ends in its cells (TSV has them as the
two characters \\t, \\n, \\r). TSV and CSV always have `raw`, Parquet if it is made from text, JSON lines in rows that
could not be parsed.

Until `finish`, the work is in `OUTPUT.partial`, which only grows. Each chunk is appended as a unit (a gzip member, a
zstd frame or, for Parquet, an Arrow stream of its own). So cutting the file at a checkpoint undoes all that came after
it, and the finished file does not show how often that happened.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.progress import say
from bertnli.data.formats import format_of
from bertnli.data.pairs import Chunk, PairFile, Row
from bertnli.data.parquet import types_lost
from bertnli_export.output_file import PartialFile, StandardOutput, writing
from bertnli_export.parquet_schema import key_values, storable, with_columns

if TYPE_CHECKING:
    import pyarrow

Sink = PartialFile | StandardOutput

_DECIMALS = 6
# A Parquet row group ends with the chunk that reaches one of these.
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RowResult:
    """The scores of one row, or the reason why it has none. With an `error`, the other fields are ignored."""

    prediction: str | None
    probabilities: Sequence[float] | None  # in the model's order of labels; finite
    truncated: bool
    error: str | None


def open_writer(
    output: str | os.PathLike[str],
    file: PairFile,
    labels: Sequence[str],
    *,
    prefix: str = "",
    format: str | None = None,
    resume_at: Mapping[str, Any] | None = None,
) -> Writer:
    """A writer of `file`'s rows, from the first row, or from the checkpoint `resume_at`.

    `output` is a path, or `-` for standard output (with `format`; not Parquet, and without resume). The unfinished work
    of an earlier run is continued at `resume_at`, or discarded without it. A finished output is replaced when the new
    one is finished.

    Raises InputError if an added column has the name of an input column; if the output cannot be written, is the input,
    or is being written by another process; if there is less unfinished work than `resume_at` says.
    """
    path = os.fspath(output)
    if path == "-" and format is None:
        raise InputError("standard output has no name that shows its format", do="give it with --format")
    kind, packing = format_of("" if path == "-" else path, format)
    added = [prefix + name for name in ("prediction", *(f"p_{label}" for label in labels), "truncated", "error")]
    raw = None if kind == file.format == "parquet" else prefix + "raw"
    for name in (*added, raw):
        if name in file.fields:
            raise InputError(
                f"{file.name}: column {name!r} has the name of one that the output adds",
                do="give the added columns other names with --prefix, for example --prefix nli_",
            )
    sink: Sink
    if path != "-":
        sink = PartialFile(path, packing, file.path, resume_at)
    elif kind == "parquet" or resume_at is not None:
        raise InputError("standard output", expected="TSV, CSV or JSON lines, from the first row")
    else:
        sink = StandardOutput(packing)
    rows = 0 if resume_at is None else int(resume_at["rows"])
    return _WRITERS[kind](sink, rows, file, added, raw, kind)


class Writer(ABC):
    """Takes a file's chunks in order, each with a result for every row. `rows` counts the rows written.

    Every method raises RunError if the output cannot be written.
    """

    def __init__(self, sink: Sink, rows: int, file: PairFile, added: Sequence[str], raw: str | None, kind: str):
        self.rows = rows
        self._sink, self._file, self._added, self._raw, self._kind = sink, file, added, raw, kind
        self._fields = frozenset(file.fields)

    def write(self, chunk: Chunk, scored: Sequence[RowResult]) -> None:
        """Append a chunk."""
        if len(scored) != len(chunk.rows):
            raise ValueError(f"{len(scored)} results for {len(chunk.rows)} rows")
        self._begin()
        self._sink.append(self._encode(chunk, scored))
        self.rows += len(scored)

    def checkpoint(self) -> dict[str, int]:
        """Make what was written so far durable. Returns where it ends, as JSON for `open_writer(resume_at=…)`."""
        self._sink.sync()
        return {"rows": self.rows, "bytes": self._sink.size}

    def finish(self) -> None:
        """Make the output durable and give it its final name, in one step."""
        self._begin()
        self._sink.sync()
        self._sink.publish()

    def close(self) -> None:
        """Close the output. If it is not finished, a later run can resume at the last checkpoint."""
        self._sink.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:  # noqa: B027 Parquet writes nothing here
        """Write what comes before the first row. The file is empty until then, so the run's record exists first."""

    @abstractmethod
    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes: ...


class _TextWriter(Writer):
    def __init__(self, sink: Sink, rows: int, file: PairFile, added: Sequence[str], raw: str | None, kind: str):
        super().__init__(sink, rows, file, added, raw, kind)
        self._same_format = kind == file.format
        self._prepare()

    def _begin(self) -> None:
        if self._sink.size == 0:
            self._sink.append(_encoded(self._header()))  # also if empty: a .gz without rows still has a gzip header

    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes:
        records = [None] * len(scored) if self._same_format else self._file.values(chunk)
        return _encoded("".join(map(self._line, chunk.rows, records, scored)))

    @abstractmethod
    def _prepare(self) -> None:
        """Make the templates of the lines."""

    @abstractmethod
    def _header(self) -> str: ...

    @abstractmethod
    def _line(self, row: Row, record: dict[str, Any] | None, result: RowResult) -> str:
        """The output's record. `record`: the input's; None if its text is copied or could not be parsed."""


class _DelimitedWriter(_TextWriter):
    """TSV and CSV."""

    def _prepare(self) -> None:
        self._separator, self._cell = ("\t", _tsv_cell) if self._kind == "tsv" else (",", _csv_cell)
        self._empty_cells = self._separator * (len(self._file.fields) - 1)
        places = len(self._added) - 3
        self._good_cells = self._separator.join(["%s", *[f"%.{_DECIMALS}f"] * places, "%s", ""])
        self._error_cells = self._separator.join(["", *[""] * places, "false", "%s"])

    def _header(self) -> str:
        own = self._file.header if self._same_format else self._separator.join(map(self._cell, self._file.fields))
        return self._separator.join([own, *map(self._cell, [*self._added, self._raw or ""])]) + "\n"

    def _line(self, row: Row, record: dict[str, Any] | None, result: RowResult) -> str:
        raw = ""
        if self._same_format and row.parsed:
            own = row.raw
            if self._separator == "\t":  # lines of SNLI's own files may have fewer cells
                own += "\t" * (len(self._empty_cells) - own.count("\t"))
        elif record is not None:
            cells = [_text(record.get(name)) or "" for name in self._file.fields]
            written = [self._cell(cell) for cell in cells]
            own = self._separator.join(written)
            if not record.keys() <= self._fields or (self._separator == "\t" and written != cells):
                raw = self._cell(_json(record))
        else:
            own, raw = self._empty_cells, self._cell(row.raw)
        if error := result.error or row.error:
            added = self._error_cells % self._cell(error)
        else:
            truncated = "true" if result.truncated else "false"
            added = self._good_cells % (self._cell(result.prediction or ""), *(result.probabilities or ()), truncated)
        return f"{own}{self._separator}{added}{self._separator}{raw}\n"


class _JsonWriter(_TextWriter):
    """JSON lines."""

    def _prepare(self) -> None:
        self._empty_cells = "{" + ", ".join(f"{_json(name)}: null" for name in self._file.fields)
        self._keys = [_json(name) for name in self._added]
        prediction, *probabilities, truncated, error = (key.replace("%", "%%") for key in self._keys)
        numbers = [f"{key}: %.{_DECIMALS}f" for key in probabilities]
        nulls = [f"{key}: null" for key in (prediction, *probabilities)]
        self._good_cells = ", ".join([f"{prediction}: %s", *numbers, f"{truncated}: %s", f"{error}: null"])
        self._error_cells = ", ".join([*nulls, f"{truncated}: false", f"{error}: %s"])

    def _header(self) -> str:
        return ""

    def _line(self, row: Row, record: dict[str, Any] | None, result: RowResult) -> str:
        raw = ""
        if self._same_format and row.parsed:
            self._check_keys(row)
            own = row.raw.rstrip()[:-1]
        elif record is not None:
            own = _json(record)[:-1]
        else:
            own, raw = self._empty_cells, f", {_json(self._raw)}: {_json(row.raw)}"
        if error := result.error or row.error:
            added = self._error_cells % _json(error)
        else:
            truncated = "true" if result.truncated else "false"
            added = self._good_cells % (_json(result.prediction), *(result.probabilities or ()), truncated)
        return f"{own}{'' if own.strip() == '{' else ', '}{added}{raw}}}\n"

    def _check_keys(self, row: Row) -> None:
        """`open_writer` checked the keys of the first object, but any row may have others."""
        if any(key in row.raw for key in self._keys) or "\\u00" in row.raw:
            [record] = self._file.values(Chunk([row], None))
            for name in (record or {}).keys() & set(self._added):
                raise RunError(
                    f"{self._file.name}: row {row.number}: key {name!r} has the name of a column that the output adds",
                    do="start over with other names for the added columns: --restart --prefix nli_",
                )


class _ParquetWriter(Writer):
    """Keeps the chunks as Arrow streams, one after another in the partial file, and joins them into row groups at the
    end, because an unfinished Parquet file cannot be continued: its index is at its end."""

    def __init__(self, sink: Sink, rows: int, file: PairFile, added: Sequence[str], raw: str | None, kind: str):
        import pyarrow as pa

        super().__init__(sink, rows, file, added, raw, kind)
        assert isinstance(sink, PartialFile)
        self._chunks = sink
        columns = [pa.field(name, pa.string()) for name in file.fields] if file.schema is None else [*file.schema]
        kinds = [pa.string(), *[pa.float64()] * (len(added) - 3), pa.bool_(), pa.string()]
        fields = [pa.field(name, kind) for name, kind in zip(added, kinds, strict=True)]
        if raw is not None:
            fields.append(pa.field(raw, pa.string()))
        metadata = with_columns(None if file.schema is None else file.schema.metadata, columns, fields)
        self._schema = pa.schema([*columns, *fields], metadata=metadata)
        self._stored = storable(self._schema)
        for column, lost in types_lost(file.path).items() if file.schema is not None else ():
            say(f"warning: {file.name}: column {column!r} has the same values in the output, but not the type {lost}")

    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes:
        import pyarrow as pa

        columns: list[Any]
        raw: list[str | None] = []
        if chunk.table is not None:
            columns = list(chunk.table.columns)
        else:
            columns, raw = self._text_columns(chunk)
        errors = [result.error or row.error for row, result in zip(chunk.rows, scored, strict=True)]
        good = [None if error else result for error, result in zip(errors, scored, strict=True)]
        columns.append([result and result.prediction for result in good])
        probabilities = [result and result.probabilities for result in good]
        for at in range(len(self._added) - 3):
            columns.append([each and round(float(each[at]), _DECIMALS) for each in probabilities])
        columns.append([result is not None and result.truncated for result in good])
        columns.append([_text(error) for error in errors])
        if self._raw is not None:
            columns.append(raw)
        arrays = [
            _as_type(column, field.type) if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self._stored, strict=True)
        ]
        stream = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(stream, self._stored, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._stored))
        return stream.getvalue().to_pybytes()

    def _text_columns(self, chunk: Chunk) -> tuple[list[Any], list[str | None]]:
        raw: list[str | None] = []
        records = self._file.values(chunk)
        for row, record in zip(chunk.rows, records, strict=True):
            if record is None:
                raw.append(row.raw)
            else:
                raw.append(None if record.keys() <= self._fields else _text(_json(record)))
        return [[_text((record or {}).get(name)) for record in records] for name in self._file.fields], raw

    def finish(self) -> None:
        """Join the chunks. Memory holds a few row groups at most."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def write_group() -> None:
            table = pa.Table.from_batches(group, self._stored)
            writer.write_table(table, row_group_size=table.num_rows)
            group.clear()

        self._chunks.sync()
        joined = self._chunks.path.with_name(f"{self._chunks.path.name}.parquet")
        group: list[pyarrow.RecordBatch] = []
        with (
            writing(joined),
            pq.ParquetWriter(joined, self._stored, store_schema=False) as writer,
            pa.OSFile(str(self._chunks.path)) as chunks,
        ):
            while chunks.tell() < self._chunks.size:
                group.extend(pa.ipc.open_stream(chunks))
                rows, size = sum(batch.num_rows for batch in group), sum(batch.nbytes for batch in group)
                if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                    write_group()
            if group:
                write_group()
            writer.add_key_value_metadata(key_values(self._schema))
        self._chunks.publish(joined)


def _as_type(column: pyarrow.Array, kind: pyarrow.DataType) -> pyarrow.Array:
    return column if column.type == kind else column.cast(kind)  # a cast to its own type breaks structs of nulls


_WRITERS: dict[str, type[Writer]] = {
    "tsv": _DelimitedWriter,
    "csv": _DelimitedWriter,
    "jsonl": _JsonWriter,
    "parquet": _ParquetWriter,
}


def _encoded(text: str) -> bytes:
    # Half a surrogate pair, from a \\ud800 in JSON, is the only thing that is not UTF-8. It is written as in the JSON.
    return text.encode("utf-8", "backslashreplace")


def _text(value: object) -> str | None:
    """A cell as text that can be written as UTF-8; a value that is not a string as JSON; null as None."""
    if value is None:
        return None
    text = value if isinstance(value, str) else _json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _tsv_cell(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _csv_cell(text: str) -> str:
    if '"' in text:
        text = text.replace('"', '""')
    elif "," not in text and "\n" not in text and "\r" not in text:
        return text
    return f'"{text}"'
