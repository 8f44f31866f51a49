"""Columns of every Arrow type that Parquet holds, nested ones too, drawn by hypothesis; and their text, read back."""

from __future__ import annotations

import decimal
import json
import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as types
from hypothesis import strategies as st

_DIGITS = decimal.Context(prec=100)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEAR_1600, _YEAR_9999 = -11_676_096_000, 253_402_300_799  # seconds


class Column(NamedTuple):
    """Values as Python has them, with integers for all times (in the type's unit) and the digits of decimals."""

    type: pa.DataType
    values: list[Any]

    @property
    def array(self) -> pa.Array:
        """Nested extension types can only be made from what stores them."""
        stored = pa.array([_python(value, self.type) for value in self.values], _storage(self.type))
        return stored if stored.type == self.type else stored.cast(self.type)


_INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
_TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
_BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)]
_DECIMALS = [pa.decimal32(5, 2), pa.decimal64(15, 3), pa.decimal128(38, 18), pa.decimal256(70, 20)]
_TIMESTAMPS = [pa.timestamp(unit, zone) for unit in _UNITS for zone in (None, "UTC", "Europe/Berlin", "+02:30")]
_TIMES = [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.date32(), pa.date64()]
_DURATIONS = [pa.duration(unit) for unit in _UNITS]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_PLAIN = [pa.null(), pa.bool_(), *_INTEGERS, *_TEXTS, *_BYTES, *_DECIMALS, *_TIMESTAMPS, *_TIMES, *_DURATIONS, *_FLOATS]
_EXTENSIONS = [
    *(pa.uuid(), pa.bool8(), pa.json_(), pa.opaque(pa.binary(), "kind", "vendor")),
    pa.fixed_shape_tensor(pa.int8(), [2]),
]
_DICTIONARIES = [pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.binary())]
_LEAVES = [*_PLAIN, *_EXTENSIONS, *_DICTIONARIES]

_of_views = st.sampled_from([kind for kind in _PLAIN if not (types.is_string_view(kind) or types.is_binary_view(kind))])
_list_views = _of_views.flatmap(lambda kind: st.sampled_from([pa.list_view(kind), pa.large_list_view(kind)]))


def _containers(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.filter(lambda kind: "null" not in str(kind)).map(lambda kind: pa.list_(kind, 2)),  # pyarrow cannot
        st.lists(inner, min_size=1, max_size=2).map(lambda kinds: pa.struct(list(zip("ab", kinds, strict=False)))),
        st.tuples(st.sampled_from([pa.string(), pa.int32(), pa.string_view()]), inner).map(lambda two: pa.map_(*two)),
    )


kinds = st.recursive(st.one_of(st.sampled_from(_LEAVES), _list_views), _containers, max_leaves=3)


def columns(rows: int, types: st.SearchStrategy[pa.DataType] = kinds) -> st.SearchStrategy[Column]:
    """A column of `rows` values."""
    return types.flatmap(
        lambda drawn: st.lists(_values(drawn), min_size=rows, max_size=rows).map(lambda values: Column(drawn, values))
    )


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if types.is_null(kind):
        return st.none()
    return st.none() | _present(kind)


def _present(kind: pa.DataType) -> st.SearchStrategy[Any]:
    name = getattr(kind, "extension_name", "")
    if name == "arrow.uuid":
        return st.binary(min_size=16, max_size=16)
    if name == "arrow.bool8":
        return st.booleans()
    if name == "arrow.json":
        return st.sampled_from(['{"a": [1, "\\t"]}', '"x"', "null", " 1.50 "])
    if name:
        return _present(kind.storage_type)
    if types.is_dictionary(kind):
        return _present(kind.value_type)
    if types.is_boolean(kind):
        return st.booleans()
    if types.is_integer(kind):
        signed = types.is_signed_integer(kind)
        return st.integers(-(2 ** (kind.bit_width - 1)) * signed, 2 ** (kind.bit_width - signed) - 1)
    if types.is_floating(kind):
        return st.floats(width=kind.bit_width)
    if types.is_decimal(kind):
        return st.integers(1 - 10**kind.precision, 10**kind.precision - 1)
    if kind in _TEXTS:
        return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6) | st.just(
            "1\\t\n"
        )
    if kind == pa.binary(3):
        return st.binary(min_size=3, max_size=3)
    if kind in _BYTES:
        return st.binary(max_size=6) | st.sampled_from([b"caf\xc3\xa9", b"\\x5c", b"\\"])
    return _present_time(kind) if types.is_temporal(kind) else _present_nested(kind)


def _present_time(kind: pa.DataType) -> st.SearchStrategy[int]:
    if types.is_date32(kind):
        return st.integers(_YEAR_1600 // 86_400, _YEAR_9999 // 86_400) | st.integers(-(2**31), 2**31 - 1)
    if types.is_date64(kind):
        return st.integers(_YEAR_1600 // 86_400, _YEAR_9999 // 86_400).map(lambda days: days * 86_400_000)
    unit = _UNITS[kind.unit]
    if types.is_time(kind):
        return st.integers(0, 86_400 * unit - 1)
    if types.is_duration(kind) or kind.unit == "ns":
        return st.integers(-(2**62), 2**62)
    in_years = st.integers(_YEAR_1600 * unit, _YEAR_9999 * unit)
    return in_years | st.integers(-(2**52), 2**52)  # in seconds, years that have nine digits


def _present_nested(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if types.is_struct(kind):
        names = [field.name for field in kind]
        return st.tuples(*(_values(field.type) for field in kind)).map(
            lambda cells: dict(zip(names, cells, strict=True))
        )
    if types.is_map(kind):
        return st.lists(st.tuples(_present(kind.key_type), _values(kind.item_type)), max_size=2)
    length = getattr(kind, "list_size", None)
    return st.lists(_values(kind.value_type), min_size=length or 0, max_size=length or 2)


def _storage(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if types.is_struct(kind):
        return pa.struct([field.with_type(_storage(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_type, _storage(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_storage(kind.value_type), kind.list_size)
    if types.is_list(kind):
        return pa.list_(_storage(kind.value_type))
    if types.is_large_list(kind):
        return pa.large_list(_storage(kind.value_type))
    return kind


def _python(value: Any, kind: pa.DataType) -> Any:
    """`value` as pyarrow takes it for the type's storage."""
    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return int(value) if kind == pa.bool8() else value
    if types.is_decimal(kind):
        return decimal.Decimal(value).scaleb(-kind.scale, _DIGITS)
    if types.is_struct(kind):
        return {field.name: _python(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(key, _python(item, kind.item_type)) for key, item in value]
    if types.is_nested(kind):
        return [_python(item, kind.value_type) for item in value]
    return value


# The text, read back


def from_cell(cell: str, kind: pa.DataType) -> Any:
    """The value of a cell in CSV or TSV; an empty cell is null."""
    if cell == "":
        return None
    name = getattr(kind, "extension_name", "")
    is_json = types.is_nested(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_duration(kind)
    is_json |= name in ("arrow.bool8", "arrow.fixed_shape_tensor")
    return from_json(json.loads(cell) if is_json else cell, kind)


def from_json(value: Any, kind: pa.DataType) -> Any:
    """The value of a `Column` that was written as this JSON value, or as a cell's text."""
    if value is None:
        return None
    name = getattr(kind, "extension_name", "")
    if name == "arrow.uuid":
        return bytes.fromhex(value.replace("-", ""))
    if name == "arrow.bool8":
        assert isinstance(value, bool)
        return value
    if name:
        return from_json(value, kind.storage_type)
    if types.is_dictionary(kind):
        return from_json(value, kind.value_type)
    if types.is_floating(kind):
        return float(kind.to_pandas_dtype()(value))
    if types.is_decimal(kind):
        return int(decimal.Decimal(value).scaleb(kind.scale, _DIGITS))
    if kind in _BYTES:
        return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), value.encode())
    if types.is_date(kind):
        return int(np.datetime64(value).astype("datetime64[D]").astype(int)) * (
            1 if kind == pa.date32() else 86_400_000
        )
    if types.is_timestamp(kind):
        assert value.endswith("Z") == (kind.tz is not None)
        return int(np.datetime64(value.rstrip("Z")).astype(f"datetime64[{kind.unit}]").astype(int))
    if types.is_time(kind):
        seconds, _, digits = value.partition(".")
        hour, minute, second = map(int, seconds.split(":"))
        unit = _UNITS[kind.unit]
        return (hour * 3600 + minute * 60 + second) * unit + int((digits or "0").ljust(9, "0")) * unit // 10**9
    if types.is_struct(kind):
        return {field.name: from_json(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(key, from_json(item, kind.item_type)) for key, item in value]
    return [from_json(item, kind.value_type) for item in value] if types.is_nested(kind) else value
