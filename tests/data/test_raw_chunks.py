"""Chunks of records that another process parses: the same rows as from reading row by row."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bertnli.common.errors import RunError
from bertnli.data import formats
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile

GOOD = '{"premise": "a", "hypothesis": "b", "label": 1}'
LINES = [
    GOOD,
    "",
    " ",
    "[]",
    "{",
    '{"premise": "\\ud800", "hypothesis": "b"}',
    "\r",
    "é" * 30,
    f" {GOOD} ",
    f"{GOOD}\r",
]
UNDECODABLE = b'{"premise": "\xff", "hypothesis": "b"}'


def elsewhere(path: Path, size: int) -> list[Row]:
    """The rows as another process parses them; checks the numbers and sizes that the chunks say of themselves."""
    file = PairFile(path)
    there, number, rows = pickle.loads(pickle.dumps(file)), 1, list[Row]()
    for raw in file.raw_chunks(size):
        chunk = there.parse(pickle.loads(pickle.dumps(raw)))
        assert (raw.first, raw.size) == (number, len(chunk.rows))
        assert raw.size <= size
        number += raw.size
        rows += chunk.rows
    return rows


@given(
    st.lists(st.sampled_from([*map(str.encode, LINES), UNDECODABLE]), max_size=12),
    st.integers(1, 5),
    st.integers(1, 60),
    st.sampled_from([b"", b"\n", b"\r\n"]),
    st.booleans(),
)
@example([b"\r"], 2, 1, b"", False)
def test_json_lines_are_cut_into_chunks_at_line_ends_alone(tmp_path_factory, lines, size, block, end, mark) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * mark + b"\n".join([GOOD.encode(), *lines]) + end)
    with patch.object(formats, "BLOCK", block):
        rows = elsewhere(path, size)
        assert (
            rows == list(PairFile(path).rows()) == [row for chunk in PairFile(path).chunks(size) for row in chunk.rows]
        )
    assert len(rows) == path.read_bytes().removesuffix(b"\n").count(b"\n") + 1


@pytest.mark.parametrize("kind", ["tsv", "csv", "parquet"])
def test_the_other_formats(tmp_path, kind) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"premise": ["a", None, "c"], "hypothesis": ["b", "b", ""], "label": [0, 1, 2]}), path)
    else:
        separator = "," if kind == "csv" else "\t"
        path.write_text("premise,hypothesis,label\na,b,c\n\na\n ,b,c\nd,e,f\n".replace(",", separator))
    rows = elsewhere(path, 2)
    assert rows == list(PairFile(path).rows())
    assert len(rows) == (3 if kind == "parquet" else 5)


def test_json_lines_that_end_too_early_are_read_up_to_there(tmp_path) -> None:
    text = "".join(json.dumps({"premise": str(number), "hypothesis": "b"}) + "\n" for number in range(200_000))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode())[:-100_000])
    with pytest.raises(RunError, match=r"cannot be read beyond row \d+: Compressed file ended") as by_row:
        list(PairFile(path).rows())
    with pytest.raises(RunError) as by_chunk:
        list(PairFile(path).raw_chunks(1000))
    assert str(by_row.value) == str(by_chunk.value)
