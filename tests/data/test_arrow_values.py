"""The form of each Arrow type as a JSON value, alone and inside a list, a struct and a map."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from bertnli.data.arrow_values import json_values
from bertnli.data.formats import UnreadableError

NAN, INF = float("nan"), float("inf")
COLUMNS: list[tuple[list[Any], pa.DataType, list[Any]]] = [
    ([0.1, NAN, -INF, 1e20, -0.0], pa.float32(), [0.1, "NaN", "-Infinity", 1e20, -0.0]),
    ([0.1, 65504], pa.float16(), [0.1, 65500.0]),  # the shortest digits that float16 reads as 65504
    ([0.1, 1e-300], pa.float64(), [0.1, 1e-300]),
    ([2**64 - 1], pa.uint64(), [2**64 - 1]),
    ([Decimal("1.10")], pa.decimal32(5, 2), ["1.10"]),
    ([date(9999, 12, 31)], pa.date32(), ["9999-12-31"]),
    ([3_000_000, -(2**31)], pa.date32(), ["10183-09-21", "-5877641-06-23"]),
    ([1], pa.timestamp("ns"), ["1970-01-01 00:00:00.000000001"]),
    ([-11_676_096_000], pa.timestamp("s", "Europe/Berlin"), ["1600-01-01 00:00:00Z"]),
    ([10**12], pa.timestamp("s"), ["33658-09-27 01:46:40"]),
    ([1], pa.time64("us"), ["00:00:00.000001"]),
    ([-3], pa.duration("ms"), [-3]),
    ([b"caf\xc3\xa9", b"\xfe\\\t\x00"], pa.binary(), ["café", "\\xfe\\x5c\\x09\\x00"]),
    ([b"ab"], pa.binary(2), ["ab"]),
    ([b"\xff"], pa.binary_view(), ["\\xff"]),
    (["a\\"], pa.string_view(), ["a\\"]),
    ([UUID(int=1).bytes], pa.uuid(), ["00000000-0000-0000-0000-000000000001"]),
    ([0, 1, 7], pa.bool8(), [False, True, True]),
    (['{"a": 1.0}'], pa.json_(), ['{"a": 1.0}']),
    (["x"], pa.opaque(pa.string(), "kind", "vendor"), ["x"]),
    ([[1, 2]], pa.fixed_shape_tensor(pa.int8(), [2]), [[1, 2]]),
    (["x", "y", "x"], pa.dictionary(pa.int8(), pa.string()), ["x", "y", "x"]),
    ([[1], []], pa.large_list_view(pa.int8()), [[1], []]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), COLUMNS, ids=[str(kind) for _, kind, _ in COLUMNS])
def test_one_form_at_the_top_and_nested(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    stored = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    column = pa.array([*values, None], stored)
    column = column if column.type == kind else column.cast(kind)
    expected = [*expected, None]
    size = len(column)
    assert repr(json_values(column)) == repr(expected)
    assert repr(json_values(column.slice(1))) == repr(expected[1:])
    a_list = pa.ListArray.from_arrays(pa.array([0, None, size], pa.int32()), column)
    assert repr(json_values(a_list)) == repr([expected, None])
    structs = pa.StructArray.from_arrays([column], ["a"])
    assert repr(json_values(structs.slice(1))) == repr([{"a": value} for value in expected[1:]])
    maps = pa.MapArray.from_arrays(pa.array([0, 1, size], pa.int32()), pa.array(range(size)), column)
    pairs = [[key, value] for key, value in enumerate(expected)]
    assert repr(json_values(maps.slice(1))) == repr([pairs[1:]])


def test_strings_that_are_not_utf8() -> None:
    column = pa.array([b"a", b"b\xff"]).view(pa.string())
    assert json_values(column) == ["a", "b\\xff"]
    assert json_values(pa.ListArray.from_arrays([0, 2], column), "surrogateescape") == [["a", "b\udcff"]]


def test_a_struct_with_two_fields_of_one_name() -> None:
    column = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    with pytest.raises(UnreadableError, match="cannot be text: two fields have the same name"):
        json_values(column)
