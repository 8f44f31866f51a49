"""Scored rows written back: the input's columns as they were, one row for each input row, and what was added.

Added are `prediction`, a `p_<label>` for each label, `truncated` and `error`, with `--prefix` before each. Where input
and output have the same text format, a record's own text goes out byte for byte, with the added cells behind it;
between formats cells are converted: what is not text becomes JSON text in TSV and CSV, and every column of a
text format becomes text in Parquet. Line ends are line feeds; probabilities have six decimals in every format.

`raw`, another added column, holds a record whole wherever the columns cannot: as its text if it could not be parsed,
as a JSON object if it has keys beyond the header or, on the way to TSV, tabs or line ends in its cells (which TSV has
as the two characters \\t, \\n, \\r). TSV and CSV always have `raw`, Parquet where it is made from text, JSON lines in
the rows that could not be parsed.

Until `finish`, the work lies in `OUTPUT.partial`, which only grows: each chunk is appended whole (a gzip member, a zstd
frame or, for Parquet, an Arrow stream of its own), so that cutting the file at a checkpoint undoes all that came after
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
from bertnli.data.formats import format_of
from bertnli.data.pairs import Chunk, PairFile, Row
from bertnli_export.output_file import PartialFile, StandardOutput, writing

if TYPE_CHECKING:
    import pyarrow

Sink = PartialFile | StandardOutput

_DECIMALS = 6
_GROUP_ROWS = 1 << 16  # a Parquet row group has so many rows, rounded up to whole chunks,
_GROUP_BYTES = 64 << 20  # or is so large, whichever comes first


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring made of one row. With an `error`, the rest is not looked at."""

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
    """A writer of `file`'s rows, from the first one on, or after the rows that `resume_at` (a checkpoint) stands for.

    `output` is a path, or `-` for standard output (with `format`; not Parquet, and no resume). Unfinished work of
    an earlier run is gone on from or thrown away; a finished output is replaced when the new one is finished.

    Raises InputError if an added column clashes with one of the input's; if the output cannot be written, is the
    input, or is being written by another process; if there is less unfinished work than `resume_at` says.
    """
    path = os.fspath(output)
    if path == "-" and format is None:
        raise InputError("standard output has no name to tell its format", do="say it with --format")
    kind, packing = format_of("" if path == "-" else path, format)
    added = [prefix + name for name in ("prediction", *(f"p_{label}" for label in labels), "truncated", "error")]
    raw = None if kind == file.format == "parquet" else prefix + "raw"
    for name in (*added, raw):
        if name in file.fields:
            raise InputError(
                f"{file.name}: column {name!r} is one that the output adds",
                do="give the added columns other names with --prefix, for example --prefix nli_",
            )
    sink: Sink
    if path != "-":
        sink = PartialFile(path, packing, file.path, resume_at)
    elif kind == "parquet" or resume_at is not None:
        raise InputError("standard output", expected="TSV, CSV or JSON lines, from the first row on")
    else:
        sink = StandardOutput(packing)
    rows = 0 if resume_at is None else int(resume_at["rows"])
    return _WRITERS[kind](sink, rows, file, added, raw, kind)


class Writer(ABC):
    """Takes a file's chunks in order, each with as many results. `rows` counts the rows written.

    Every method raises RunError if the output cannot be written.
    """

    def __init__(self, sink: Sink, rows: int, file: PairFile, added: Sequence[str], raw: str | None, kind: str):
        self.rows = rows
        self._sink, self._file, self._added, self._raw, self._kind = sink, file, added, raw, kind
        self._fields = frozenset(file.fields)

    def write(self, chunk: Chunk, scored: Sequence[Scored]) -> None:
        """Append a chunk."""
        if len(scored) != len(chunk.rows):
            raise ValueError(f"{len(scored)} results for {len(chunk.rows)} rows")
        self._begin()
        self._sink.append(self._encode(chunk, scored))
        self.rows += len(scored)

    def checkpoint(self) -> dict[str, int]:
        """Make what was written so far durable, and say where it ends: JSON for `open_writer(resume_at=…)`."""
        self._sink.sync()
        return {"rows": self.rows, "bytes": self._sink.size}

    def finish(self) -> None:
        """Make the output durable and visible under its own name, in one step."""
        self._begin()
        self._sink.sync()
        self._sink.publish()

    def close(self) -> None:
        """Let go of the output. What is not finished stays for a resume, as far as the last checkpoint."""
        self._sink.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:  # noqa: B027 most formats have something
        """Write what comes before the first row. Until then the file is empty, so that the run has its record first."""

    @abstractmethod
    def _encode(self, chunk: Chunk, scored: Sequence[Scored]) -> bytes: ...


class _TextWriter(Writer):
    def __init__(self, sink: Sink, rows: int, file: PairFile, added: Sequence[str], raw: str | None, kind: str):
        super().__init__(sink, rows, file, added, raw, kind)
        self._own_text = kind == file.format
        self._prepare()

    def _begin(self) -> None:
        if self._sink.size == 0:
            self._sink.append(_encoded(self._header()))  # nothing, packed, is something: a .gz without rows is one

    def _encode(self, chunk: Chunk, scored: Sequence[Scored]) -> bytes:
        records = [None] * len(scored) if self._own_text else self._file.values(chunk)
        return _encoded("".join(map(self._line, chunk.rows, records, scored)))

    @abstractmethod
    def _prepare(self) -> None:
        """Make what is the same in every line."""

    @abstractmethod
    def _header(self) -> str: ...

    @abstractmethod
    def _line(self, row: Row, record: dict[str, Any] | None, result: Scored) -> str:
        """The output's record; `record` is the input's, unless its text is taken over or it was not parsed."""


class _DelimitedWriter(_TextWriter):
    """TSV and CSV."""

    def _prepare(self) -> None:
        self._separator, self._cell = ("\t", _tsv_cell) if self._kind == "tsv" else (",", _csv_cell)
        self._no_cells = self._separator * (len(self._file.fields) - 1)
        places = len(self._added) - 3
        self._scored = self._separator.join(["%s", *[f"%.{_DECIMALS}f"] * places, "%s", ""])
        self._unscored = self._separator.join(["", *[""] * places, "false", "%s"])

    def _header(self) -> str:
        own = self._file.header if self._own_text else self._separator.join(map(self._cell, self._file.fields))
        return self._separator.join([own, *map(self._cell, [*self._added, self._raw or ""])]) + "\n"

    def _line(self, row: Row, record: dict[str, Any] | None, result: Scored) -> str:
        raw = ""
        if self._own_text and row.parsed:
            own = row.raw
            if self._separator == "\t":  # SNLI's own lines may be short
                own += "\t" * (len(self._no_cells) - own.count("\t"))
        elif record is not None:
            cells = [_text(record.get(name)) or "" for name in self._file.fields]
            written = [self._cell(cell) for cell in cells]
            own = self._separator.join(written)
            if not record.keys() <= self._fields or (self._separator == "\t" and written != cells):
                raw = self._cell(_json(record))
        else:
            own, raw = self._no_cells, self._cell(row.raw)
        if error := result.error or row.error:
            added = self._unscored % self._cell(error)
        else:
            truncated = "true" if result.truncated else "false"
            added = self._scored % (self._cell(result.prediction or ""), *(result.probabilities or ()), truncated)
        return f"{own}{self._separator}{added}{self._separator}{raw}\n"


class _JsonWriter(_TextWriter):
    """JSON lines."""

    def _prepare(self) -> None:
        self._no_cells = "{" + ", ".join(f"{_json(name)}: null" for name in self._file.fields)
        self._keys = [_json(name) for name in self._added]
        prediction, *probabilities, truncated, error = (key.replace("%", "%%") for key in self._keys)
        numbers = [f"{key}: %.{_DECIMALS}f" for key in probabilities]
        nulls = [f"{key}: null" for key in (prediction, *probabilities)]
        self._scored = ", ".join([f"{prediction}: %s", *numbers, f"{truncated}: %s", f"{error}: null"])
        self._unscored = ", ".join([*nulls, f"{truncated}: false", f"{error}: %s"])

    def _header(self) -> str:
        return ""

    def _line(self, row: Row, record: dict[str, Any] | None, result: Scored) -> str:
        raw = ""
        if self._own_text and row.parsed:
            self._check_keys(row)
            own = row.raw.rstrip()[:-1]
        elif record is not None:
            own = _json(record)[:-1]
        else:
            own, raw = self._no_cells, f", {_json(self._raw)}: {_json(row.raw)}"
        if error := result.error or row.error:
            added = self._unscored % _json(error)
        else:
            truncated = "true" if result.truncated else "false"
            added = self._scored % (_json(result.prediction), *(result.probabilities or ()), truncated)
        return f"{own}{'' if own.strip() == '{' else ', '}{added}{raw}}}\n"

    def _check_keys(self, row: Row) -> None:
        """The columns were checked by the first object's keys, but any row may bring more."""
        if any(key in row.raw for key in self._keys) or "\\u00" in row.raw:
            [record] = self._file.values(Chunk([row], None))
            for name in (record or {}).keys() & set(self._added):
                raise RunError(
                    f"{self._file.name}: row {row.number}: key {name!r} is one that the output adds",
                    do="start over with other names for the added columns: --restart --prefix nli_",
                )


class _ParquetWriter(Writer):
    """Parquet has its index at the end and cannot be gone on with; so the chunks are kept as Arrow streams, one after
    another in the partial file, and joined into row groups when all are there."""

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
        metadata = None if file.schema is None else file.schema.metadata
        self._schema = pa.schema([*columns, *fields], metadata=metadata)

    def _encode(self, chunk: Chunk, scored: Sequence[Scored]) -> bytes:
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
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        stream = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(stream, self._schema, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
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
        """Join the chunks; memory stays within a few row groups."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def write_group() -> None:
            table = pa.Table.from_batches(group, self._schema)
            writer.write_table(table, row_group_size=table.num_rows)
            group.clear()

        self._chunks.sync()
        joined = self._chunks.path.with_name(f"{self._chunks.path.name}.parquet")
        group: list[pyarrow.RecordBatch] = []
        with (
            writing(joined),
            pq.ParquetWriter(joined, self._schema) as writer,
            pa.OSFile(str(self._chunks.path)) as chunks,
        ):
            while chunks.tell() < self._chunks.size:
                group.extend(pa.ipc.open_stream(chunks))
                rows, size = sum(batch.num_rows for batch in group), sum(batch.nbytes for batch in group)
                if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                    write_group()
            if group:
                write_group()
        self._chunks.publish(joined)


_WRITERS: dict[str, type[Writer]] = {
    "tsv": _DelimitedWriter,
    "csv": _DelimitedWriter,
    "jsonl": _JsonWriter,
    "parquet": _ParquetWriter,
}


def _encoded(text: str) -> bytes:
    # only half a surrogate pair, from a \\ud800 in JSON, is no UTF-8: it comes out as it was written there
    return text.encode("utf-8", "backslashreplace")


def _text(value: object) -> str | None:
    """A cell as text that can be written as UTF-8; what is not a string as JSON; null as None."""
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
