"""The output of scoring: one row for each input row, with the input's columns unchanged and some added.

The added columns (score_columns.py) are `prediction`, a `p_<label>` for each label, `truncated` and `error`, with
`--prefix` before each; for a model with one output, `score` takes the place of `prediction` and the probabilities.
If input and output have the same text format, the text of each record is copied byte for byte, and the added cells
follow it. Tables are always written with a header, and with tabs and no quoting (TSV) or as RFC 4180 says (CSV); cells
of an input that is written in another way are converted. Between formats cells are converted too: what is not text
becomes JSON text in TSV and CSV, and every column of a text format becomes text in Parquet. The numbers, lists and
objects of JSON lines stay the text that they are. The cells of Parquet have forms that can be read back: see
data/arrow_values.py. Lines end with a line feed. In every format probabilities have six decimals, a score has
seven digits.

`raw`, another added column, holds the complete record where the columns cannot: its text if it could not be parsed, a
JSON object if it has keys beyond the header, a key twice or half a surrogate pair or, on the way to TSV, tabs or line
ends in its cells (TSV has them as the two characters \\t, \\n, \\r). TSV and CSV always have `raw`, Parquet if it is
made from text, JSON lines in rows that could not be parsed.

Until `finish`, the work is in `OUTPUT.partial`, which only grows. Each chunk is appended as a unit (a gzip member, a
zstd frame or, for Parquet, an Arrow stream of its own). So cutting the file at a checkpoint undoes all that came after
it, and the finished file does not show how often that happened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import InputError
from bertnli.common.progress import say
from bertnli.data.formats import Format, format_of
from bertnli.data.outputs import Outputs
from bertnli.data.pair_rows import Chunk
from bertnli.data.pairs import PairFile
from bertnli.data.parquet import types_lost
from bertnli_export.encoders import ENCODERS, Encoder, ParquetEncoder, RowResult
from bertnli_export.output_file import PartialFile, StandardOutput, writing
from bertnli_export.parquet_schema import key_values
from bertnli_export.score_columns import ScoreColumns

__all__ = ["RowResult", "Writer", "open_writer"]

if TYPE_CHECKING:
    import pyarrow

Sink = PartialFile | StandardOutput

# A Parquet row group ends with the chunk that reaches one of these.
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20


def output_format_of(name: str, given: str | None = None) -> Format:
    """As `format_of`. Raises InputError also for Arrow, in which scores are not written: Parquet has the same types."""
    found = format_of(name, given)
    if found.kind == "arrow":
        raise InputError(
            f"{name or 'standard output'}: scores are not written as Arrow",
            expected=".tsv, .csv or .jsonl (also with .gz or .zst) or .parquet",
            do="write .parquet, which holds the same types",
        )
    return found


def open_writer(
    output: str | os.PathLike[str],
    file: PairFile,
    outputs: Outputs,
    *,
    added: ScoreColumns | None = None,
    prefix: str = "",
    format: str | None = None,
    resume_at: Mapping[str, Any] | None = None,
) -> Writer:
    """A writer of `file`'s rows, from the first row, or from the checkpoint `resume_at`. outputs: of the model. added:
    the columns to add, by default those of the outputs.

    `output` is a path, or `-` for standard output (with `format`; not Parquet, and without resume). The unfinished work
    of an earlier run is continued at `resume_at`, or discarded without it. A finished output is replaced when the new
    one is finished.

    Raises InputError if an added column has the name of an input column; if the output cannot be written, is the input,
    or is being written by another process; if Parquet lacks the type of a column; if there is less unfinished work than
    `resume_at` says.
    """
    path = os.fspath(output)
    if path == "-" and format is None:
        raise InputError("standard output has no name that shows its format", do="give it with --format")
    kind, packing = output_format_of("" if path == "-" else path, format)
    added = added or ScoreColumns.of(outputs, prefix)
    raw = None if kind == "parquet" and file.schema is not None else prefix + "raw"
    for name in (*added.names, raw):
        if name in file.fields:
            raise InputError(
                f"{file.name}: column {name!r} has the name of one that the output adds",
                do="give the added columns other names with --prefix, for example --prefix nli_",
            )
    encoder = ENCODERS[kind](file, added, raw, kind, packing)
    if isinstance(encoder, ParquetEncoder):
        encoder.check_types()
    sink: Sink
    if path != "-":
        sink = PartialFile(path, file.path, resume_at)
    elif kind == "parquet" or resume_at is not None:
        raise InputError("standard output", expected="TSV, CSV or JSON lines, from the first row")
    else:
        sink = StandardOutput()
    if kind == "parquet" and file.format == "parquet":
        for column, lost in types_lost(file.path).items():
            say(f"warning: {file.name}: column {column!r} has the same values in the output, but not the type {lost}")
    rows = 0 if resume_at is None else int(resume_at["rows"])
    return (_ParquetWriter if kind == "parquet" else Writer)(sink, rows, encoder)


class Writer:
    """Takes a file's chunks in order. `rows` counts the rows written; `encoder` makes the bytes of a chunk.

    Every method raises RunError if the output cannot be written.
    """

    def __init__(self, sink: Sink, rows: int, encoder: Encoder):
        self.rows, self.encoder = rows, encoder
        self._sink = sink

    def write(self, chunk: Chunk, scored: Sequence[RowResult]) -> None:
        """Append a chunk with a result for every row. Raises as `Encoder.encode`."""
        self.append(self.encoder.encode(chunk, scored), len(scored))

    def append(self, data: bytes, rows: int) -> None:
        """Append a chunk of so many rows that `encoder`, or a copy of it, has encoded."""
        self._begin()
        self._sink.append(data)
        self.rows += rows

    def checkpoint(self) -> dict[str, int]:
        """Make what was written so far durable. Returns where it ends, as JSON for `open_writer(resume_at=…)`."""
        self._sink.sync()
        return {"rows": self.rows, "bytes": self._sink.size, "crc32": self._sink.crc32}

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

    def _begin(self) -> None:
        """Write what comes before the first row. The file is empty until then, so the run's record exists first."""
        if self._sink.size == 0 and (header := self.encoder.header()):
            self._sink.append(header)


class _ParquetWriter(Writer):
    """Keeps the chunks, one Arrow stream after another in the partial file, and joins them into row groups at the
    end."""

    def finish(self) -> None:
        """Join the chunks. Memory holds a few row groups at most."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        def write_group() -> None:
            table = pa.Table.from_batches(group, encoder.stored)
            writer.write_table(table, row_group_size=table.num_rows)
            group.clear()

        assert isinstance(self._sink, PartialFile) and isinstance(self.encoder, ParquetEncoder)
        chunks_file, encoder = self._sink, self.encoder
        chunks_file.sync()
        joined = chunks_file.path.with_name(f"{chunks_file.path.name}.parquet")
        joined.unlink(missing_ok=True)  # a killed run's, or a link, which would be followed
        group: list[pyarrow.RecordBatch] = []
        with (
            writing(joined),
            pq.ParquetWriter(joined, encoder.stored, store_schema=False) as writer,
            pa.OSFile(str(chunks_file.path)) as chunks,
        ):
            while chunks.tell() < chunks_file.size:
                group.extend(pa.ipc.open_stream(chunks))
                rows, size = sum(batch.num_rows for batch in group), sum(batch.nbytes for batch in group)
                if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                    write_group()
            if group:
                write_group()
            writer.add_key_value_metadata(key_values(encoder.schema))
        chunks_file.publish(joined)
