"""Arrow IPC files (Feather 2 is one): their schema, and their rows in batches of a fixed size.

There are two formats. A file has its index at the end, and begins with ARROW1; a stream can only be read from its
beginning, and is what the datasets library of Hugging Face saves. Source: Arrow's columnar format, "Serialization and
Interprocess Communication (IPC)". The smallest part that can be read is a record batch, as the writer chose it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bertnli.common.errors import BertnliError, first_line
from bertnli.data.class_names import column_of_other_classes
from bertnli.data.columns import listed
from bertnli.data.formats import UnreadableError
from bertnli.data.parquet import resized

if TYPE_CHECKING:
    import pyarrow

FILE = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"  # begins a message since Arrow 0.15
_END = b"\0\0\0\0"  # in place of a message's length: the end of a stream


def ipc_schema(file: BinaryIO) -> pyarrow.Schema:
    """The schema of an Arrow file or stream, with its metadata. Raises UnreadableError."""
    with _readable(), _opened(file) as (reader, _):
        return reader.schema


def ipc_tables(
    files: Iterable[BinaryIO], size: int, columns: Sequence[str] | None = None, *, several: bool = False
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of files with one schema, in batches of exactly `size`, the last one shorter. columns: only these.

    Raises UnreadableError, which names the file if there are `several`; also for a stream that may have been cut off
    between two batches, as it lacks its end, and for one that something follows.
    """
    with _readable():
        yield from resized(_batches(files, columns, several), size)


def _batches(files: Iterable[BinaryIO], columns: Sequence[str] | None, several: bool) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    schema = None
    for file in files:
        with _readable(Path(file.name).name if several else ""):
            found = ipc_schema(file)
            schema = schema or found
            if difference := _difference(schema, found):
                do = "make it as the others are: load the data set, cast it and save it again"
                raise UnreadableError(f"it is not as the files before it: {difference}", do)
        chosen = None if columns is None else [schema.get_field_index(name) for name in columns]
        with _readable(Path(file.name).name if several else ""), _opened(file, chosen) as (reader, source):
            is_file = isinstance(reader, pa.RecordBatchFileReader)
            for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
                _check(batch)
                yield batch
            if not is_file:
                _check_end(file, source.tell())


@contextmanager
def _opened(file: BinaryIO, columns: Sequence[int] | None = None) -> Iterator[Any]:
    """A reader of the file's batches, and what it reads from. Not memory-mapped: the process would die if another one
    shortened the file."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=columns)
    with ExitStack() as stack:
        # By its descriptor: each reader needs a position of its own.
        source = stack.enter_context(pa.OSFile(f"/proc/self/fd/{file.fileno()}"))
        is_file = os.pread(file.fileno(), len(FILE), 0) == FILE
        opened = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source, options=options)
        yield stack.enter_context(opened), source


def _check(batch: pyarrow.RecordBatch) -> None:
    """Raise ArrowInvalid for damaged offsets: reading them would be reading other memory."""
    import pyarrow as pa

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # a string that is not UTF-8 is a bad row
                raise


def _check_end(file: BinaryIO, at: int) -> None:
    """Raise UnreadableError unless the stream that was read up to `at` ends there, and the file with it."""
    new = os.pread(file.fileno(), len(_CONTINUATION), 0) == _CONTINUATION
    end = _CONTINUATION + _END if new else _END
    if os.pread(file.fileno(), len(end), max(at - len(end), 0)) != end:
        what = "it lacks the end of an Arrow stream, so rows may be missing"
        raise UnreadableError(what, "get the file again: it is not complete")
    if at != os.fstat(file.fileno()).st_size:
        what = "something follows the Arrow stream, such as another one, whose rows would be missing"
        raise UnreadableError(what, "write all rows into one stream, or each stream into a file of its own")


def _difference(schema: pyarrow.Schema, other: pyarrow.Schema) -> str:
    """What is not the same in both, in words; empty if nothing."""
    if schema.names != other.names:
        return f"its columns are {listed(other.names)}, theirs {listed(schema.names)}"
    for one, two in zip(schema, other, strict=True):
        theirs, its = (f"{field.type}{'' if field.nullable else ' not null'}" for field in (one, two))
        if its != theirs:
            return f"its column {one.name!r} is of type {its}, theirs of {theirs}"
    other_classes = column_of_other_classes(schema, other)
    return f"its column {other_classes!r} has other class names" if other_classes else ""


@contextmanager
def _readable(name: str = "") -> Iterator[None]:
    """Makes an UnreadableError of what Arrow raises for damaged data, which has many types. name: of the file, to be
    named."""
    where = f"{name}: " if name else ""
    try:
        yield
    except (MemoryError, BertnliError):
        raise
    except UnreadableError as error:
        raise UnreadableError(f"{where}{error}", error.do) from error
    except Exception as error:
        raise UnreadableError(f"{where}{first_line(error)}") from error
