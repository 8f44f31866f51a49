"""An Arrow column as JSON values: what a cell of Parquet becomes in JSON lines and, as JSON text, in TSV and CSV.

Each type has one form, at the top and inside lists, structs and maps alike. With the column's type, the value can be
made again from it:

* text, booleans and integers are themselves; so is JSON (`arrow.json`), which stays the text that it is
* float64, float32 and float16: the shortest number that the type reads as the same value; NaN and Infinity are text
* decimals: text with all their decimals
* dates and times: ISO 8601 text with a blank, and as many decimals as the unit has. A time with a zone is in UTC and
  ends in Z, because offsets of early years have seconds, which ISO 8601 cannot express.
* durations: the integer that is stored, in the column's unit
* UUIDs: text
* bytes: UTF-8 text, with \\xNN for each byte that is not UTF-8, for control characters and for a backslash
* lists are arrays, structs objects, maps arrays of [key, value]; of other extension types, what they are stored as
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from bertnli.common.errors import first_line
from bertnli.data.formats import UnreadableError

if TYPE_CHECKING:
    import pyarrow

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_TO_ESCAPE = re.compile(rb"[\x00-\x1f\x7f\\]")


def holds_text(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds strings, also in a dictionary or in runs."""
    import pyarrow.types as types

    text = kind.value_type if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind
    return bool(types.is_string(text) or types.is_large_string(text) or types.is_string_view(text))


def json_values(column: pyarrow.Array, errors: str = "backslashreplace") -> list[Any]:
    """A column as JSON values. `errors`: how to decode strings that are not UTF-8; the format does not enforce it.

    Raises UnreadableError for a type that has no such form.
    """
    import pyarrow as pa

    try:
        return _values(column, errors)
    except (ValueError, TypeError, ArithmeticError, pa.ArrowException) as error:
        raise UnreadableError(f"a column of type {column.type} cannot be text: {first_line(error)}") from error


def _values(column: pyarrow.Array, errors: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.types as types

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(column, errors)
    if types.is_dictionary(kind):
        return _values(column.dictionary_decode(), errors)
    if types.is_run_end_encoded(kind):
        import pyarrow.compute as pc

        return _values(pc.run_end_decode(column), errors)
    if holds_text(kind):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            cells = column.cast(pa.large_binary()).to_pylist()
            return [None if cell is None else cell.decode("utf-8", errors) for cell in cells]
    if _is_bytes(kind):
        return [None if cell is None else _bytes(cell) for cell in column.to_pylist()]
    if types.is_nested(kind):
        return _nested(column, errors)
    if types.is_floating(kind):
        return _floats(column)
    if types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        return _instants(days, "D")
    if types.is_timestamp(kind):
        return _instants(column.cast(pa.int64()), kind.unit, "" if kind.tz is None else "Z")
    if types.is_decimal(kind) or types.is_time(kind):
        column = column.cast(pa.string())
    elif types.is_duration(kind):
        column = column.cast(pa.int64())
    return column.to_pylist()


def _extension(column: pyarrow.Array, errors: str) -> list[Any]:
    import pyarrow as pa

    name, cells = column.type.extension_name, column.storage
    if name == "arrow.uuid":
        return [None if cell is None else str(UUID(bytes=cell)) for cell in cells.to_pylist()]
    if name == "arrow.bool8":
        cells = cells.cast(pa.bool_())
    return _values(cells, errors)


def _nested(column: pyarrow.Array, errors: str) -> list[Any]:
    import pyarrow.types as types

    kind = column.type
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            raise TypeError("two fields have the same name")
        fields = [_values(column.field(at), errors) for at in range(len(names))]
        # The fields of a null struct have values too.
        return [
            dict(zip(names, cells, strict=True)) if valid else None
            for valid, *cells in zip(column.is_valid().to_pylist(), *fields, strict=True)
        ]
    if types.is_union(kind):
        raise TypeError("a union has no such form")
    # By offsets: flatten() cannot leave out the null lists of every type.
    spans = [span for span, valid in zip(_spans(column), column.is_valid().to_pylist(), strict=True) if valid]
    first, last = min((start for start, _ in spans), default=0), max((end for _, end in spans), default=0)
    parts = [column.keys, column.items] if types.is_map(kind) else [column.values]
    items: list[Any] = [_values(part.slice(first, last - first), errors) for part in parts]
    items = [list(pair) for pair in zip(*items, strict=True)] if types.is_map(kind) else items[0]
    lists = (items[start - first : end - first] for start, end in spans)
    return [next(lists) if valid else None for valid in column.is_valid().to_pylist()]


def _spans(column: pyarrow.Array) -> Iterator[tuple[int, int]]:
    """Where the items of each list are in the array of all items: (first, last + 1)."""
    import pyarrow.types as types

    if types.is_fixed_size_list(column.type):
        size = column.type.list_size
        return ((at * size, (at + 1) * size) for at in range(column.offset, column.offset + len(column)))
    starts = column.offsets.to_pylist()
    if types.is_list_view(column.type) or types.is_large_list_view(column.type):
        return ((start, start + size) for start, size in zip(starts, column.sizes.to_pylist(), strict=True))
    return pairwise(starts)


def _floats(column: pyarrow.Array) -> list[Any]:
    numbers = column.drop_null().to_numpy()
    if numbers.dtype != np.float64:  # by way of their shortest digits: 0.1, not 0.10000000149011612
        numbers = numbers.astype(str).astype(np.float64)
    found = iter(numbers.tolist())
    cells = [next(found) if valid else None for valid in column.is_valid().to_pylist()]
    return [cell if cell is None or math.isfinite(cell) else _NOT_FINITE[str(cell)] for cell in cells]


def _instants(numbers: pyarrow.Array, unit: str, zone: str = "") -> list[str | None]:
    """Numbers of days, seconds, … since 1970 as text. NumPy knows all years; Arrow's conversion fails beyond 32,767."""
    present = numbers.drop_null().to_numpy().astype(f"datetime64[{unit}]")
    found: list[str] = np.datetime_as_string(present).tolist()
    texts = (text if text == "NaT" else text.replace("T", " ") + zone for text in found)
    return [next(texts) if valid else None for valid in numbers.is_valid().to_pylist()]


def _is_bytes(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _bytes(cell: bytes) -> str:
    escaped = _TO_ESCAPE.sub(lambda found: f"\\x{found[0][0]:02x}".encode(), cell)
    return escaped.decode("utf-8", "backslashreplace")
