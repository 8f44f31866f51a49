"""Parquet files: their schema, and their rows in batches of a fixed size.

INT96, the old timestamp of Spark, Hive and Impala, is read to the microsecond. Nanoseconds in 64 bits, Arrow's default
for it, end in 2262 and wrap around silently: 9999-12-31 would become 1816. Spark, too, reads INT96 as microseconds, and
it cannot read a column of nanoseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

from bertnli.common.errors import first_line
from bertnli.common.progress import say
from bertnli.data.formats import BLOCK, UnreadableError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet as pq

_LACKING = ("Interval", "Enum", "BSON", "Geometry", "Geography")
_VARIANT = re.compile(r"^ *\w+ group field_id=\S+ (.*) \(Variant\(\d+\)\) \{$", re.MULTILINE)


def parquet_schema(path: str | BinaryIO) -> pyarrow.Schema:
    """The Arrow schema of a Parquet file, with all metadata that the file has. Raises UnreadableError."""
    try:
        with _open(path) as file:
            return file.schema_arrow.with_metadata(file.metadata.metadata)
    except MemoryError:
        raise
    except Exception as error:  # damaged metadata makes Arrow raise many types
        raise _unreadable(error) from error


def types_lost(path: str) -> dict[str, str]:
    """The columns of a Parquet file whose types Arrow does not have, with these types. It keeps their values.

    Raises UnreadableError.
    """
    try:
        with _open(path) as file:
            leaves = [file.schema.column(at) for at in range(len(file.schema))]
            # pyarrow has no other way to ask for the type of a group.
            variants = _VARIANT.findall(str(file.schema))
    except Exception as error:
        raise _unreadable(error) from error
    kinds = {leaf.path: json.loads(leaf.logical_type.to_json()) for leaf in leaves}
    lost = {path: kind["Type"] for path, kind in kinds.items() if kind["Type"] in _LACKING}
    in_utc = {path: "Time in UTC" for path, kind in kinds.items() if kind["Type"] == "Time" and kind["isAdjustedToUTC"]}
    return lost | in_utc | dict.fromkeys(variants, "Variant")


def parquet_tables(
    path: str | BinaryIO, size: int, columns: Sequence[str] | None = None
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a Parquet file in batches of exactly `size`, the last one shorter. Raises UnreadableError."""
    try:
        with _open(path) as file:
            yield from resized(_watched(path, file, size, columns), size)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


def resized(batches: Iterable[pyarrow.RecordBatch], size: int) -> Iterator[pyarrow.RecordBatch]:
    """The rows of `batches` in batches of exactly `size`; the last one may be shorter."""
    import pyarrow as pa

    pending: list[pyarrow.RecordBatch] = []
    rows = 0
    for batch in batches:
        while rows + batch.num_rows >= size:
            pending.append(batch.slice(0, size - rows))
            yield pa.concat_batches(pending)
            batch = batch.slice(size - rows)
            pending, rows = [], 0
        if batch.num_rows:
            pending.append(batch)
            rows += batch.num_rows
    if pending:
        yield pa.concat_batches(pending)


def _unreadable(error: Exception) -> UnreadableError:
    text = first_line(error)
    if "decrypt" in text:
        return UnreadableError(f"it is encrypted ({text})", "decrypt it: write it again without encryption")
    if isinstance(error, NotImplementedError):  # a type, an encoding or a compression
        return UnreadableError(
            f"pyarrow cannot read a column of it ({text})", "write it again without that column, or with another type"
        )
    return UnreadableError(text)


def _open(path: str | BinaryIO, int96_unit: str = "us") -> pq.ParquetFile:
    import pyarrow.parquet as pq

    # A file that was opened before is opened by its descriptor: each reader needs a position of its own.
    path = path if isinstance(path, str) else f"/proc/self/fd/{path.fileno()}"
    # Without pre_buffer, pages are read one by one, not complete row groups in advance.
    return pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False, coerce_int96_timestamp_unit=int96_unit)


def _batches(file: pq.ParquetFile, size: int, columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
    # A batch over two row groups has two dictionaries, and Arrow cannot join them inside lists and structs.
    for group in range(file.num_row_groups):
        yield from file.iter_batches(size, row_groups=[group], columns=columns)


def _watched(
    path: str | BinaryIO, file: pq.ParquetFile, size: int, columns: Sequence[str] | None
) -> Iterator[pyarrow.RecordBatch]:
    """The batches, with one warning for each column of INT96 that has digits beyond the microsecond."""
    with _open(path, "ns") if _has_int96(file) else nullcontext(file) as precise:
        names = {
            field.name
            for field, exact in zip(file.schema_arrow, precise.schema_arrow, strict=True)
            if field.type != exact.type and (columns is None or field.name in columns)
        }
        if not names:
            yield from _batches(file, size, columns)
            return
        for batch, exact in zip(_batches(file, size, columns), _batches(precise, size, sorted(names)), strict=True):
            for name in sorted(names):
                nanoseconds = exact.column(name)
                # Where 64 bits of nanoseconds end, both wrap around in the same way.
                if not batch.column(name).cast(nanoseconds.type, safe=False).equals(nanoseconds):
                    names.remove(name)
                    file_name = path if isinstance(path, str) else path.name
                    say(
                        f"warning: {file_name}: column {name!r} has INT96 times with nanoseconds; they are cut to "
                        "microseconds, as Spark reads them"
                    )
            yield batch


def _has_int96(file: pq.ParquetFile) -> bool:
    return any(file.schema.column(at).physical_type == "INT96" for at in range(len(file.schema)))
