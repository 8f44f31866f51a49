"""The rows of the output in each format: the input's record unchanged, then the scores.

An encoder makes the bytes of a whole chunk, which do not depend on the chunks before it: text, packed by itself (a gzip
member or a zstd frame), or for Parquet an Arrow stream. It can be pickled, so any process can do it.
"""

from __future__ import annotations

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common.encodings import with_escapes
from bertnli.common.errors import InputError, RunError, first_line
from bertnli.data.dialect import USUAL
from bertnli.data.pair_rows import Chunk, Row
from bertnli.data.pairs import PairFile
from bertnli.data.records import JsonCells
from bertnli_export.parquet_schema import ARROW, storable, with_columns
from bertnli_export.score_columns import ScoreColumns

if TYPE_CHECKING:
    import pyarrow


class RowResult(NamedTuple):  # made three times as fast as a frozen dataclass
    """The scores of one row, or the reason why it has none. With an `error`, the other fields are ignored."""

    prediction: str | tuple[str, ...] | None  # see `scorer.Prediction`
    values: Sequence[float] | None  # in the order of the model's outputs; finite
    truncated: bool
    error: str | None
    extras: Sequence[Any] = ()  # in the order of `ScoreColumns.extras`


class Encoder(ABC):
    """Chunks of `file` in the format `kind`. `added`: the columns that follow the input's own; `raw`: the name of the
    column for records that the columns cannot hold, if there is one. packing: "", gz or zst."""

    def __init__(self, file: PairFile, added: ScoreColumns, raw: str | None, kind: str, packing: str):
        self._file, self._added, self._raw, self._kind, self._packing = file, added, raw, kind, packing
        self._fields = frozenset(file.fields)
        dialect = file.dialect
        self._same_format = kind == file.format and (dialect is None or dialect.is_like(USUAL[kind]))
        self._numbers = [extra.kind == "numbers" for extra in added.extras]
        self._prepare()

    def header(self) -> bytes:
        """What comes before the first row."""
        return b""

    def encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes:
        """A chunk with a result for every row. Raises RunError for values that the format cannot hold."""
        if len(scored) != len(chunk.rows):
            raise ValueError(f"{len(scored)} results for {len(chunk.rows)} rows")
        return self._encode(chunk, scored)

    def _lacks(self, record: Mapping[str, Any]) -> bool:
        """Whether the columns do not have all values of a record of JSON lines."""
        return not record.keys() <= self._fields or (isinstance(record, JsonCells) and record.lacking)

    def _extras(self, result: RowResult) -> Iterator[Any]:
        """The values of the columns of an expansion."""
        for value, are_numbers in zip(result.extras, self._numbers, strict=True):
            yield [self._added.rounded(number) for number in value] if are_numbers else value

    @abstractmethod
    def _prepare(self) -> None:
        """Make what is the same for all rows."""

    @abstractmethod
    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes: ...


class _TextEncoder(Encoder):
    def header(self) -> bytes:
        return self._bytes(self._header())  # also if empty: a .gz without rows still has a gzip header

    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes:
        records = [None] * len(scored) if self._same_format else self._file.values(chunk, as_written=True)
        return self._bytes("".join(map(self._line, chunk.rows, records, scored)))

    def _bytes(self, text: str) -> bytes:
        # Half a surrogate pair, from a \\ud800 in JSON, is the only thing that is not UTF-8: written as in the JSON.
        return _packed(text.encode("utf-8", "backslashreplace"), self._packing)

    @abstractmethod
    def _header(self) -> str: ...

    @abstractmethod
    def _line(self, row: Row, record: dict[str, Any] | None, result: RowResult) -> str:
        """The output's record. `record`: the input's; None if its text is copied or could not be parsed."""


class _DelimitedEncoder(_TextEncoder):
    """TSV and CSV."""

    def _prepare(self) -> None:
        self._separator, self._cell = ("\t", _tsv_cell) if self._kind == "tsv" else (",", _csv_cell)
        self._empty_cells = self._separator * (len(self._file.fields) - 1)
        added = self._added
        self._has_prediction = added.prediction is not None
        predictions = ["%s"] * self._has_prediction
        values = [added.number] * len(added.values)
        self._good_cells = self._separator.join([*predictions, *values, *["%s"] * len(added.extras), "%s", ""])
        self._error_cells = self._separator.join([*[""] * (len(added.names) - 2), "false", "%s"])

    def _header(self) -> str:
        own = [self._file.header] if self._same_format else list(map(self._cell, self._file.fields))
        return self._separator.join([*own, *map(self._cell, [*self._added.names, self._raw or ""])]) + "\n"

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
            if self._lacks(record) or (self._separator == "\t" and written != cells):
                raw = self._cell(record.text if isinstance(record, JsonCells) else _json(record))
        else:
            own, raw = self._empty_cells, self._cell(row.raw)
        if error := result.error or row.error:
            added = self._error_cells % self._cell(error)
        else:
            truncated = "true" if result.truncated else "false"
            predictions = (self._cell(_text(result.prediction) or ""),) if self._has_prediction else ()
            extras = [self._cell(_json(value)) for value in self._extras(result)] if result.extras else ()
            added = self._good_cells % (*predictions, *(result.values or ()), *extras, truncated)
        return f"{own}{self._separator}{added}{self._separator}{raw}\n"


class _JsonEncoder(_TextEncoder):
    """JSON lines."""

    def _prepare(self) -> None:
        self._empty_cells = "{" + ", ".join(f"{_json(name)}: null" for name in self._file.fields)
        self._keys = [_json(name) for name in self._added.names]
        self._predictions = _Memo(_json)
        self._has_prediction = self._added.prediction is not None
        *scores, truncated, error = (key.replace("%", "%%") for key in self._keys)
        forms = ["%s"] * self._has_prediction + [self._added.number] * len(self._added.values)
        forms += ["%s"] * len(self._added.extras)
        cells = [f"{key}: {form}" for key, form in zip(scores, forms, strict=True)]
        nulls = [f"{key}: null" for key in scores]
        self._good_cells = ", ".join([*cells, f"{truncated}: %s", f"{error}: null"])
        self._error_cells = ", ".join([*nulls, f"{truncated}: false", f"{error}: %s"])

    def _header(self) -> str:
        return ""

    def _encode(self, chunk: Chunk, scored: Sequence[RowResult]) -> bytes:
        if self._same_format:
            self._check_keys([row for row in chunk.rows if row.parsed])
        return super()._encode(chunk, scored)

    def _line(self, row: Row, record: dict[str, Any] | None, result: RowResult) -> str:
        raw = ""
        if self._same_format and row.parsed:
            own = row.raw.rstrip()[:-1]
        elif record is not None:
            own = _json(record)[:-1]
        else:
            own, raw = self._empty_cells, f", {_json(self._raw)}: {_json(row.raw)}"
        if error := result.error or row.error:
            added = self._error_cells % _json(error)
        else:
            truncated = "true" if result.truncated else "false"
            predictions = (self._predictions[result.prediction],) if self._has_prediction else ()
            extras = map(_json, self._extras(result)) if result.extras else ()
            added = self._good_cells % (*predictions, *(result.values or ()), *extras, truncated)
        comma = ", " if '"' in own else ""  # not after {
        return f"{own}{comma}{added}{raw}}}\n"

    def _check_keys(self, rows: Sequence[Row]) -> None:
        """`open_writer` checked the keys of the first object, but any row may have others.

        Raises RunError for a key that is the name of an added column.
        """
        signs = [*self._keys, "\\u00"]  # a key may be written in escapes
        together = "\n".join([row.raw for row in rows])
        signs = [sign for sign in signs if sign in together]
        for row in rows if signs else ():
            if any(sign in row.raw for sign in signs):
                [record] = self._file.values(Chunk([row], None))
                for name in (record or {}).keys() & set(self._added.names):
                    raise RunError(
                        f"{self._file.name}: row {row.number}: key {name!r} has the name of a column that the output "
                        "adds",
                        do="start over with other names for the added columns: --restart --prefix nli_",
                    )


class ParquetEncoder(Encoder):
    """Arrow streams, because an unfinished Parquet file cannot be continued: its index is at its end.

    schema: of the output. stored: the same with types that can be written.
    """

    def _prepare(self) -> None:
        import pyarrow as pa

        file, added = self._file, self._added
        columns = [pa.field(name, pa.string()) for name in file.fields] if file.schema is None else [*file.schema]
        prediction = pa.list_(pa.string()) if added.lists else pa.string()
        fields = [pa.field(name, prediction) for name in added.predictions]
        fields += [pa.field(name, pa.float64()) for name in added.values]
        types = {"integer": pa.int64(), "texts": pa.list_(pa.string()), "numbers": pa.list_(pa.float64())}
        fields += [pa.field(extra.name, types[extra.kind]) for extra in added.extras]
        fields += [pa.field(added.truncated, pa.bool_()), pa.field(added.error, pa.string())]
        if self._raw is not None:
            fields.append(pa.field(self._raw, pa.string()))
        metadata = with_columns(None if file.schema is None else file.schema.metadata, columns, fields)
        if file.format == "arrow":
            metadata[ARROW] = b""  # see `key_values`
        self.schema = pa.schema([*columns, *fields], metadata=metadata)
        self.stored = storable(self.schema)

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
        added = self._added
        columns += [[result and result.prediction for result in good] for _ in added.predictions]
        values = [result and result.values for result in good]
        for at in range(len(added.values)):
            columns.append([each and added.rounded(each[at]) for each in values])
        extras = [result and list(self._extras(result)) for result in good]
        columns += [[each and each[at] for each in extras] for at in range(len(added.extras))]
        columns.append([result is not None and result.truncated for result in good])
        columns.append([_text(error) for error in errors])
        if self._raw is not None:
            columns.append(raw)
        arrays = [
            _as_type(column, field.type) if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self.stored, strict=True)
        ]
        stream = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(stream, self.stored, options=options) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.stored))
        return stream.getvalue().to_pybytes()

    def check_types(self) -> None:
        """Raise InputError if Parquet cannot hold a column of Arrow's types."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for field in self.stored if self._file.format == "arrow" else ():
            try:
                pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
            except pa.ArrowException as error:
                raise InputError(
                    f"{self._file.name}: column {field.name!r} of type {field.type} cannot be written as Parquet",
                    found=first_line(error),
                    do="write .jsonl, .csv or .tsv, or remove that column",
                ) from None

    def _text_columns(self, chunk: Chunk) -> tuple[list[Any], list[str | None]]:
        raw: list[str | None] = []
        records = self._file.values(chunk, as_written=True)
        for row, record in zip(chunk.rows, records, strict=True):
            raw.append(row.raw if record is None or self._lacks(record) else None)
        return [[_text((record or {}).get(name)) for record in records] for name in self._file.fields], raw


def _as_type(column: pyarrow.Array, kind: pyarrow.DataType) -> pyarrow.Array:
    return column if column.type == kind else column.cast(kind)  # a cast to its own type breaks structs of nulls


ENCODERS: dict[str, type[Encoder]] = {
    "tsv": _DelimitedEncoder,
    "csv": _DelimitedEncoder,
    "jsonl": _JsonEncoder,
    "parquet": ParquetEncoder,
}


def _packed(data: bytes, packing: str) -> bytes:
    """A gzip member or zstd frame of its own, without a file name or a date in it."""
    if packing == "gz":
        return gzip.compress(data, 6, mtime=0)
    if packing == "zst":
        import pyarrow

        frame: bytes = pyarrow.Codec("zstd", compression_level=3).compress(data, asbytes=True)
        return frame
    return data


def _text(value: object) -> str | None:
    """A cell as text that can be written as UTF-8; a value that is not a string as JSON; null as None."""
    if value is None:
        return None
    return with_escapes(value if isinstance(value, str) else _json(value))


class _Memo(dict[Any, str]):
    """The values of a function, each computed once."""

    def __init__(self, function: Callable[[Any], str]):
        super().__init__()
        self._function = function

    def __missing__(self, key: Any) -> str:
        self[key] = value = self._function(key)
        return value


_json = json.JSONEncoder(ensure_ascii=False, default=str).encode  # `json.dumps` would make an encoder each time


def _tsv_cell(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _csv_cell(text: str) -> str:
    if '"' in text:
        text = text.replace('"', '""')
    elif "," not in text and "\n" not in text and "\r" not in text:
        return text
    return f'"{text}"'
