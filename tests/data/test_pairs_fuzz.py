"""Whatever the bytes, a file ends in rows or in one clear error; and what goes in comes out, row for row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export.writer import RowResult, open_writer
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bertnli.common.errors import BertnliError, InputError
from bertnli.data.labelled import read_labelled
from bertnli.data.outputs import Outputs
from bertnli.data.pairs import Columns, PairFile

LABELS = ("entailment", "neutral")
TEXT_FORMATS = ("tsv", "csv", "jsonl")

TSV = b'premise\thypothesis\tlabel\r\na man "plays\tsomeone\xe2\x80\xa8sleeps\tneutral\n\nb\t\t-\nx\ty\n'
CSV = b'premise,hypothesis,label\r\n"a, ""b""\n","c",neutral\r\nd,e,-\n\n"open,f,g\nh,i,j\n'
JSONL = (
    b'{"premise": "a \\u00e4", "hypothesis": "b", "label": 1}\n{"premise": null}\n[]\n{"hypothesis": [1e5], "x": {}}\n'
)


def parquet() -> bytes:
    sink = io.BytesIO()
    premises = pa.array(["a", "b", None] * 20).dictionary_encode()
    pq.write_table(
        pa.table({"premise": premises, "hypothesis": ["x"] * 60, "label": range(60)}), sink, row_group_size=25
    )
    return sink.getvalue()


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside/pairs.tsv", TSV * 5)
    return sink.getvalue()


WHOLE = {
    "a.tsv": TSV,
    "a.csv": CSV,
    "a.jsonl": JSONL,
    "a.tsv.gz": gzip.compress(TSV) * 2,
    "a.csv.zst": pa.Codec("zstd").compress(CSV, asbytes=True) * 2,
    "a.jsonl.gz": gzip.compress(JSONL),
    "a.zip": archive(),
    "a.parquet": parquet(),
}
HEADERS = {
    "tsv": b"premise\thypothesis\n",
    "csv": b"premise,hypothesis\n",
    "jsonl": b'{"premise": "a", "hypothesis": "b"}\n',
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file with some pieces overwritten, put in, taken out or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.binary(max_size=6) | st.sampled_from([b"\0" * 9, b'"', b"\r", b"\n", b"\xff", b"\\ud800", b"{" * 9])
        )
        length = draw(st.sampled_from([0, len(piece), 30, len(data)]))
        data[at : at + length] = piece
    return bytes(data)


def read_everything(path: Path) -> None:
    """All there is to do with an input file: ends quietly or in BertnliError."""
    for prefer_parse in (False, True):
        try:
            file = PairFile(path, prefer_parse=prefer_parse)
            rows = [row for chunk in file.chunks(7) for row in chunk.rows]
            again = list(file.rows())
        except BertnliError as error:
            assert "\n" not in str(error) or "\n" in path.name
            continue
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        assert again == rows
        for row in rows:
            for text in (row.premise, row.hypothesis, row.label, row.error, row.raw):
                assert text is None or text.encode() is not None
            if row.error is None:
                assert row.parsed and row.premise and row.hypothesis and "\0" not in row.premise + row.hypothesis
        try:
            pairs = list(read_labelled(file, LABELS, skip_bad_rows=True))
        except InputError:
            continue
        assert all(rows[pair.number - 1].error is None for pair in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
def test_damaged_files_end_in_rows_or_one_error(folder: Path, name: str, data: st.DataObject) -> None:
    path = folder / name
    path.write_bytes(data.draw(damaged(WHOLE[name])))
    read_everything(path)


@pytest.mark.parametrize("name", WHOLE)
@given(content=st.binary(max_size=200))
def test_any_bytes_end_in_rows_or_one_error(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    read_everything(path)


@given(
    names=st.lists(st.text(max_size=12), min_size=1, max_size=4),
    wanted=st.tuples(*[st.none() | st.text(max_size=9)] * 3),
)
def test_any_header_and_any_columns(
    folder: Path, names: list[str], wanted: tuple[str | None, str | None, str | None]
) -> None:
    """Also with everything `--premise` and its like can say."""
    path = folder / "header.jsonl"
    path.write_text(json.dumps(dict.fromkeys(names, "x")))
    try:
        file = PairFile(path, columns=Columns(*wanted))
    except InputError:
        return
    assert {file.columns.premise, file.columns.hypothesis} <= set(names)


def records_of(kind: str, body: bytes) -> int:
    """How many records the body has, counted another way."""
    if kind == "csv":
        return sum(1 for _ in csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
    return body.count(b"\n") + (not body.endswith(b"\n") and body != b"")


LINES = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"a\tb", b'{"premise": "x", "hypothesis": "y"}', b"{}"]), max_size=8
)


@pytest.mark.parametrize("output", ["tsv", "csv", "jsonl", "parquet", "tsv.gz", "jsonl.zst"])
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@given(lines=LINES)
def test_one_row_out_for_each_row_in(folder: Path, kind: str, output: str, lines: list[bytes]) -> None:
    body = b"\n".join(lines)
    check_target(folder, kind, output, body, records_of(kind, body))


CELLS = st.text(max_size=9) | st.text(alphabet='",\r\n\t a', max_size=9)


@pytest.mark.parametrize("output", ["tsv", "csv", "jsonl", "parquet"])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), crlf=st.booleans(), quoting=st.sampled_from([0, 1])
)
@example(rows=[("a\r", "b\n"), ('"', ","), ("\r\n", "\0")], crlf=True, quoting=0)
def test_csv_cells_come_back(folder: Path, output: str, rows: list[tuple[str, str]], crlf: bool, quoting: int) -> None:
    sink = io.StringIO(newline="")
    # as RFC 4180 has it: a carriage return is quoted too, which csv itself leaves out before Python 3.13
    quoted = csv.QUOTE_ALL if quoting or any("\r" in cell for row in rows for cell in row) else csv.QUOTE_MINIMAL
    writer = csv.writer(sink, lineterminator="\r\n" if crlf else "\n", quoting=quoted)
    writer.writerows(rows)
    body = sink.getvalue().encode()
    path = check_target(folder, "csv", output, body, len(rows))
    assert records_of("csv", body) == len(rows)
    read = [(row.premise, row.hypothesis) for row in PairFile(folder / "in.csv").rows()]
    for (premise, hypothesis), found in zip(rows, read, strict=True):
        assert found == (premise, hypothesis)
    for cells, out in zip(rows, PairFile(path).rows(), strict=True):
        expected = [
            cell.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r") if output == "tsv" else cell
            for cell in cells
        ]
        assert [out.premise, out.hypothesis] == expected


def check_target(folder: Path, kind: str, output: str, body: bytes, expected: int) -> Path:
    """Write a file's rows, and compare what comes out with what went in."""
    source, path = folder / f"in.{kind}", folder / f"out.{output}"
    source.write_bytes(HEADERS[kind] + body)
    expected += kind == "jsonl"  # whose header is a row
    file = PairFile(source)
    rows = []
    with open_writer(path, file, Outputs(LABELS)) as writer:
        for chunk in file.chunks(3):
            rows += chunk.rows
            writer.write(chunk, [RowResult("neutral", (0.25, 0.75), False, row.error) for row in chunk.rows])
        writer.finish()
    assert len(rows) == expected
    if not rows:  # JSON lines without rows are an empty file, which is refused as an input
        return path
    back = PairFile(path)
    records = [record for chunk in back.chunks(5) for record in back.values(chunk)]
    assert len(records) == expected and None not in records
    for row, record in zip(rows, records, strict=True):
        assert record is not None
        assert (record["error"] or None) == row.error
        assert (record["prediction"] or None) == (None if row.error else "neutral")
        if not row.parsed and output in ("csv", "jsonl", "parquet", "jsonl.zst"):
            assert record["raw"] == row.raw
        if row.error is None and output != "tsv":
            assert (record["premise"], record["hypothesis"]) == (row.premise, row.hypothesis)
    return path


@given(text=st.text(alphabet='"",,\n\r ab', max_size=40))
@example(text='x","""\n' * 3)
@example(text='"a\nb"c,d\n"e\n')
def test_csv_rows_are_the_text_piece_by_piece(folder: Path, text: str) -> None:
    """Put together again, the records of any CSV are the file; so none is lost, doubled or out of order."""
    path = folder / "pieces.csv"
    path.write_bytes(HEADERS["csv"] + text.encode())
    at = 0
    for row in PairFile(path).rows():
        assert text.startswith(row.raw, at)
        at += len(row.raw)
        line_end = re.match(r"\r?\n|\r?\Z", text[at:])
        assert line_end
        at += line_end.end()
    assert at == len(text)


CELL = '(?:"(?:[^"]|"")*"|[^",\n]*)'
RFC_4180 = re.compile(f"{CELL}(?:[,\n]{CELL})*")


@given(text=st.text(alphabet='"",,\n ab', max_size=40))
def test_csv_rows_agree_with_pythons_reader_on_good_files(folder: Path, text: str) -> None:
    assume(RFC_4180.fullmatch(text))
    expected = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    path = folder / "agree.csv"
    path.write_bytes(HEADERS["csv"] + text.encode())
    file = PairFile(path)
    rows = list(file.rows())
    assert len(rows) == len(expected)
    for row, cells in zip(rows, expected, strict=True):
        assert row.parsed == (len(cells) == 2)
        if row.error is None:
            assert [row.premise, row.hypothesis] == cells
