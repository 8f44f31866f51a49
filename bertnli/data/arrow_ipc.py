"""Arrow IPC files (Feather 2 is one): their schema, and their rows in batches of a fixed size.

There are two formats. A file has its index at the end, and begins with ARROW1; a stream can only be read from its
beginning, and is what the datasets library of Hugging Face saves. Source: Arrow's columnar format, "Serialization and
Interprocess Communication (IPC)". The smallest part that can be read is a record batch, as the writer chose it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from bertnli.common.errors import BertnliError, first_line
from bertnli.data.formats import UnreadableError
from bertnli.data.parquet import resized

if TYPE_CHECKING:
    import pyarrow

FILE = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"  # begins a message since Arrow 0.15
_END = b"\0\0\0\0"  # in place of a message's length: the end of a stream


def ipc_schema(file: BinaryIO) -> pyarrow.Schema:
    """The schema of an Arrow file or stream, with its metadata. Raises UnreadableError."""
    with _readable(), _opened(file) as reader:
        return reader.schema


def ipc_tables(
    files: Iterable[BinaryIO], size: int, columns: Sequence[str] | None = None
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of files with one schema, in batches of exactly `size`, the last one shorter. columns: only these.

    Raises UnreadableError, also for a stream that may have been cut off between two batches: it lacks its end.
    """
    with _readable():
        yield from resized(_batches(files, columns), size)


def _batches(files: Iterable[BinaryIO], columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    schema = None
    for file in files:
        found = ipc_schema(file)
        schema = schema or found
        if not found.equals(schema):
            raise UnreadableError(f"{file.name} has other columns, or other types, than the file before it")
        chosen = None if columns is None else [schema.get_field_index(name) for name in columns]
        with _opened(file, chosen) as reader:
            is_file = isinstance(reader, pa.RecordBatchFileReader)
            for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
                _check(batch)
                yield batch
        if not is_file and not _has_end(file):
            what = "it lacks the end of an Arrow stream, so rows may be missing"
            raise UnreadableError(what, "get the file again: it is not complete")


@contextmanager
def _opened(file: BinaryIO, columns: Sequence[int] | None = None) -> Iterator[Any]:
    """A reader of the file's batches. Not memory-mapped: the process would die if another one shortened the file."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=columns)
    with ExitStack() as stack:
        # By its descriptor: each reader needs a position of its own.
        source = stack.enter_context(pa.OSFile(f"/proc/self/fd/{file.fileno()}"))
        is_file = os.pread(file.fileno(), len(FILE), 0) == FILE
        yield stack.enter_context((pa.ipc.open_file if is_file else pa.ipc.open_stream)(source, options=options))


def _check(batch: pyarrow.RecordBatch) -> None:
    """Raise ArrowInvalid for damaged offsets: reading them would be reading other memory."""
    import pyarrow as pa

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # a string that is not UTF-8 is a bad row
                raise


def _has_end(file: BinaryIO) -> bool:
    new = os.pread(file.fileno(), len(_CONTINUATION), 0) == _CONTINUATION
    end = _CONTINUATION + _END if new else _END
    return os.pread(file.fileno(), len(end), max(os.fstat(file.fileno()).st_size - len(end), 0)) == end


@contextmanager
def _readable() -> Iterator[None]:
    """Makes an UnreadableError of what Arrow raises for damaged data, which has many types."""
    try:
        yield
    except (MemoryError, BertnliError, UnreadableError):
        raise
    except Exception as error:
        raise UnreadableError(first_line(error)) from error
