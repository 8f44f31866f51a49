"""Parquet: which columns are text, where batches end, and INT96."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertnli.common.errors import InputError
from bertnli.data.pairs import PairFile
from bertnli.data.parquet import parquet_tables


def test_parquet_accepts_every_kind_of_text(tmp_path: Path) -> None:
    texts = ["a", None, "c"]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"premise": pa.array(texts, kind), "hypothesis": pa.array(["x", "y", " "], kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        rows = list(PairFile(tmp_path / "a.parquet").rows())
        assert [row.error for row in rows] == [None, "null premise", "empty hypothesis"]
        assert rows[0].premise == "a"


def test_parquet_labels_as_text(tmp_path: Path) -> None:
    table = pa.table({"premise": ["a"] * 3, "hypothesis": ["b"] * 3})
    for labels, expected in (
        (pa.array([0, -1, None]), ["0", "-1", None]),
        (pa.array([0.0, 2.0, None]), ["0", "2", None]),
        (pa.array(["x", "", "y"]).dictionary_encode(), ["x", None, "y"]),
        (pa.array(["x", None, " "], pa.string_view()), ["x", None, None]),
        (pa.array([1, 0, None], pa.int8()).cast(pa.bool8()), ["true", "false", None]),
        (pa.array([[1], None, []]), ["[1]", None, "[]"]),
    ):
        pq.write_table(table.append_column("label", labels), tmp_path / "a.parquet")
        assert [row.label for row in PairFile(tmp_path / "a.parquet").rows()] == expected


def test_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"premise": ["a"], "hypothesis": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'hypothesis'; found type int64; expected text; .*--hypothesis"):
        PairFile(tmp_path / "a.parquet")


def test_parquet_text_that_is_no_utf8_is_a_bad_row(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"bad\xff"]).view(pa.string())
    pq.write_table(pa.table({"premise": broken, "hypothesis": ["b", "b"]}), tmp_path / "a.parquet")
    rows = list(PairFile(tmp_path / "a.parquet").rows())
    assert [row.error for row in rows] == [None, "the premise is not valid Unicode"]
    assert [row.premise for row in rows] == ["good", None]


def test_parquet_chunks_do_not_depend_on_row_groups(tmp_path: Path) -> None:
    texts = [f"premise {number % 7}" for number in range(1000)]
    table = pa.table({"premise": pa.array(texts).dictionary_encode(), "hypothesis": texts, "n": range(1000)})
    for group in (1, 17, 1000):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=group)
        chunks = list(PairFile(tmp_path / "a.parquet").chunks(300))
        assert [len(chunk.rows) for chunk in chunks] == [300, 300, 300, 100]
        assert [row.number for chunk in chunks for row in chunk.rows] == list(range(1, 1001))
        assert [row.premise for chunk in chunks for row in chunk.rows] == texts
        assert [cell for chunk in chunks for cell in chunk.table.column("n").to_pylist()] == list(range(1000))  # type: ignore[union-attr]


def test_a_category_inside_a_list_is_read_over_row_groups(tmp_path: Path) -> None:
    """Arrow cannot join the dictionaries of two row groups inside another type."""
    tags = [[f"tag {number % 5}", "all"] for number in range(20)]
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    table = pa.table({"premise": ["a"] * 20, "hypothesis": ["b"] * 20, "tags": pa.array(tags, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    batches = list(parquet_tables(str(tmp_path / "a.parquet"), 7))
    assert [batch.num_rows for batch in batches] == [7, 7, 6]
    assert [tag for batch in batches for tag in batch.column("tags").to_pylist()] == tags


@pytest.mark.parametrize(
    ("nanoseconds", "warned"),
    [([1_577_844_184_567_891_000, None, -1_000], False), ([1_577_844_184_567_891_123, None, 0], True), ([], False)],
)
def test_int96_is_read_to_the_microsecond(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nanoseconds: list[int | None], warned: bool
) -> None:
    rows = len(nanoseconds)
    late = pa.array([datetime(9999, 12, 31)] * rows, pa.timestamp("us"))
    table = pa.table(
        {"premise": ["a"] * rows, "late": late, "list": pa.array([nanoseconds] * rows, pa.list_(pa.timestamp("ns")))}
    )
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True, row_group_size=1)
    batches = list(parquet_tables(str(tmp_path / "a.parquet"), 2))
    microseconds = [None if each is None else each // 1000 for each in nanoseconds]
    assert [time for batch in batches for time in batch.column("late").to_pylist()] == late.to_pylist()
    lists = [each for batch in batches for each in batch.column("list")]
    assert [each.values.cast(pa.int64()).to_pylist() for each in lists] == [microseconds] * rows
    found = capsys.readouterr().err
    assert found.count("column 'list' has INT96 times with nanoseconds; they are cut to microseconds") == warned
    assert "late" not in found
    assert sum(batch.num_rows for batch in parquet_tables(str(tmp_path / "a.parquet"), 2, ["premise"])) == rows
    assert capsys.readouterr().err == "", "the column is not read"


def test_a_type_that_pyarrow_lacks(tmp_path: Path) -> None:
    columns = {"premise": ["a"], "hypothesis": ["b"], "big": polars.Series([2**100], dtype=polars.Int128)}
    polars.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"64 bits.*; write it again without that column"):
        PairFile(tmp_path / "a.parquet")
