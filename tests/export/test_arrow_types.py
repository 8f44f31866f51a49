"""Columns of every Arrow type through the writer: in Parquet each reader finds the same as before; as text they have a
form that can be read back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export.parquet_schema import ARROW, key_values, storable
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertnli.data.arrow_values import json_values
from tests.support.arrow_columns import Column, columns, from_cell, from_json, kinds
from tests.support.writer_runs import HEAD, run

ROWS = 5
MANY = settings(max_examples=3 * settings.default.max_examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the files are, which need not survive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield tmp_path_factory.mktemp("types")


def write(path: Path, drawn: list[Column], arrow_schema: bool = True, **options: Any) -> list[str]:
    """A file with the sentences and the drawn columns, whose names are returned."""
    arrays = [pa.array([f"premise {n}" for n in range(ROWS)]), pa.array(["hypothesis"] * ROWS)]
    arrays += [column.array for column in drawn]
    names = ["premise", "hypothesis", *(f"c{at}" for at in range(len(drawn)))]
    schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)])
    stored = storable(schema)
    table = pa.table(arrays, names) if stored == schema else pa.table(arrays, names).cast(stored)
    with pq.ParquetWriter(path, table.schema, store_schema=False, **options) as writer:
        writer.write_table(table, row_group_size=3)
        if arrow_schema:
            writer.add_key_value_metadata(key_values(schema.with_metadata({ARROW: ""})))
    return names[2:]


def in_duckdb(path: Path, names: list[str]) -> Any:
    found = duckdb.sql(f"select {', '.join(names)} from '{path}'")
    return found.types, repr(found.fetchall())


def in_polars(path: Path, names: list[str]) -> Any:
    table = polars.read_parquet(path, columns=names)
    return table.schema, repr(table.rows())


def in_pandas(path: Path, names: list[str]) -> Any:
    # NumPy's integers become floats if there are nulls in their row group, so pandas takes Arrow's.
    table = pandas.read_parquet(path, columns=names, dtype_backend="pyarrow")
    arrays = [pa.chunked_array([pa.array(table[name].array)]) for name in names]
    return table.dtypes.to_list(), [json_values(array.combine_chunks()) for array in arrays]


def in_pyarrow(path: Path, names: list[str]) -> Any:
    table = pq.read_table(path, columns=names)
    return table.schema, [json_values(column.combine_chunks()) for column in table.columns]


_VIEWS = pa.struct([("a", pa.string_view()), ("b", pa.list_(pa.binary_view()))])
_as_read = kinds.filter(lambda kind: "date64" not in str(kind))  # pyarrow reads date64 as date32


@MANY
@given(drawn=st.lists(columns(ROWS, _as_read), min_size=1, max_size=3), arrow_schema=st.booleans())
@example([Column(_VIEWS, [{"a": "x", "b": [b"y"]}, None] + [{"a": None, "b": None}] * 3)], True)
@example([Column(pa.list_(pa.struct([("a", pa.null())])), [None, [], [{"a": None}], None, [None, None]])], False)
def test_every_reader_finds_the_same_in_the_output(folder: Path, drawn: list[Column], arrow_schema: bool) -> None:
    names = write(folder / "a.parquet", drawn, arrow_schema)
    run(folder / "a.parquet", folder / "out.parquet")
    assert pq.read_schema(folder / "out.parquet").names == ["premise", "hypothesis", *names, *HEAD]
    for read in (in_pyarrow, in_pandas, in_polars, in_duckdb):
        for name in names:
            try:
                before = read(folder / "a.parquet", [name])
            except (
                Exception,
                polars.exceptions.PanicException,
            ):  # a type or a value that it does not know
                assert read is not in_pyarrow
                continue
            assert read(folder / "out.parquet", [name]) == before, f"{read.__name__}: {name}"


@MANY
@given(drawn=st.lists(columns(ROWS), min_size=1, max_size=3))
def test_text_can_be_read_back(folder: Path, drawn: list[Column]) -> None:
    names = write(folder / "a.parquet", drawn)
    for suffix in ("jsonl", "csv", "tsv"):
        run(folder / "a.parquet", folder / f"out.{suffix}")
        for name, column in zip(names, drawn, strict=True):
            found, expected = read_back(folder / f"out.{suffix}", name, column.type), column.values
            if suffix != "jsonl":  # null and the empty text are the same cell
                found, expected = (
                    [None if value in ("", b"") else value for value in all] for all in (found, expected)
                )
            assert repr(found) == repr(expected), suffix


def read_back(path: Path, name: str, kind: pa.DataType) -> list[Any]:
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")  # no other line end counts
    if path.suffix == ".jsonl":
        return [from_json(json.loads(line)[name], kind) for line in lines]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [from_cell(record[name], kind) for record in csv.DictReader(file, strict=True)]
    head, *cells = (line.split("\t") for line in lines)
    records = [dict(zip(head, line, strict=True)) for line in cells]
    return [
        from_json(json.loads(record["raw"])[name], kind) if record["raw"] else from_cell(record[name], kind)
        for record in records
    ]


_instants = pa.timestamp("us")
_int96 = [_instants, pa.list_(_instants), pa.struct([("a", _instants)]), pa.map_(pa.string(), _instants)]


@MANY
@given(column=columns(ROWS, st.sampled_from(_int96)))
def test_int96_keeps_its_dates(folder: Path, column: Column) -> None:
    """The years 1600 to 9999, in every output. Spark writes such columns."""
    write(folder / "a.parquet", [column], use_deprecated_int96_timestamps=True)
    for suffix in ("jsonl", "csv", "tsv"):
        run(folder / "a.parquet", folder / f"out.{suffix}")
        assert repr(read_back(folder / f"out.{suffix}", "c0", column.type)) == repr(column.values)
    run(folder / "a.parquet", folder / "out.parquet")
    out = pq.read_table(folder / "out.parquet")["c0"].combine_chunks()
    assert out.equals(column.array.cast(out.type))
    if column.type == _instants:
        assert polars.read_parquet(folder / "out.parquet")["c0"].to_physical().to_list() == column.values
        assert duckdb.sql(f"select epoch_us(c0) from '{folder}/out.parquet'").fetchall() == list(
            zip(column.values, strict=True)
        )
        in_numpy = pandas.read_parquet(folder / "out.parquet")["c0"].to_numpy()
        assert in_numpy.astype("datetime64[us]").tolist() == column.array.to_pylist()


def test_types_that_arrow_lacks_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = "interval 3 days as span, timetz '01:02:03+02' as utc, time '01:02' as local, 1::variant as any, "
    drawn += "'POINT(1 2)'::geometry as place"
    duckdb.sql(
        f"copy (select 'a' as premise, 'b' as hypothesis, {drawn}) to '{folder}/a.parquet' (geoparquet_version none)"
    )
    run(folder / "a.parquet", folder / "out.parquet")
    said = capsys.readouterr().err
    assert "column 'span' has the same values in the output, but not the type Interval" in said
    assert "column 'utc' has the same values in the output, but not the type Time in UTC" in said
    assert "column 'any' has the same values in the output, but not the type Variant" in said
    assert "column 'place' has the same values in the output, but not the type Geometry" in said
    assert said.count("warning") == 4
    run(folder / "a.parquet", folder / "out.csv")
    assert capsys.readouterr().err == ""
