"""Parquet files that Spark, Polars and pyarrow wrote, from beside the repository: scoring changes nothing in them."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.writer_runs import HEAD, run

SPARK = b"org.apache.spark.sql.parquet.row.metadata"
DATES = [datetime(9999, 12, 31), datetime(1600, 1, 1)]
OF_EVERY_TYPE: dict[str, list[Any]] = {
    "when": [datetime(2020, 1, 1, 2, 3, 4, 567891)],
    "day": [date(1500, 1, 1)],
    "dec": [Decimal("1.1")],
    "m": [[("k", "v")]],
    "b": [b"\x00\xff"],
}
FILES: dict[str, tuple[int, dict[str, list[Any]]]] = {
    "spark": (2, {"label": ["entailment", None]}),
    "spark_ts": (1, OF_EVERY_TYPE),
    "spark_9999": (2, {"valid_to": DATES, "created": [datetime(2020, 1, 1), None]}),
    "polars138": (1, {"label": ["entailment"]}),
    "view": (3, {}),
}


@pytest.mark.parametrize("name", FILES)
def test_values_and_added_columns(name: str, cases: Path, tmp_path: Path) -> None:
    source = cases / f"{name}.parquet"
    rows, values = FILES[name]
    run(source, tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.num_rows == rows and out.column("error").null_count == rows
    for column, expected in values.items():
        assert out.column(column).to_pylist() == expected
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata.metadata or {}
    if SPARK in metadata:
        assert [field["name"] for field in json.loads(metadata[SPARK])["fields"]] == out.column_names
        assert out.column_names[-len(HEAD) :] == HEAD
    run(source, tmp_path / "out.jsonl")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for column, expected in values.items():
        if isinstance(expected[0], datetime):
            texts = [None if each is None else each.isoformat(" ", "microseconds") for each in expected]
            assert [record[column] for record in records] == texts
