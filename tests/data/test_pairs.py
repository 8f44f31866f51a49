"""pairs: every record is one row, in order, good or bad; the columns are found; wrong files are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertnli.common.errors import InputError, RunError
from bertnli.data import records
from bertnli.data.formats import says_format
from bertnli.data.labelled import LabelledPair, read_labelled
from bertnli.data.pairs import Columns, PairFile, Row

SNLI = ("entailment", "neutral", "contradiction")
PAIRS = [
    ("A man plays.", "A man sleeps.", "contradiction"),
    ('He said "hi", twice.', "Two\u2028lines\x85here.", "neutral"),
    ("Ein Mann läuft.", "人々が歩く 🚶", "entailment"),
]


def write_tsv(path: Path) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in [("premise", "hypothesis", "label"), *PAIRS]))


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *PAIRS])


def write_jsonl(path: Path) -> None:
    names = ("premise", "hypothesis", "label")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in PAIRS))


def write_parquet(path: Path) -> None:
    names = ("premise", "hypothesis", "label")
    pq.write_table(pa.table(dict(zip(names, zip(*PAIRS, strict=True), strict=True))), path)


WRITERS = {".tsv": write_tsv, ".txt": write_tsv, ".csv": write_csv, ".jsonl": write_jsonl, ".ndjson": write_jsonl}


def pack(data: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(data)
    return pa.Codec("zstd").compress(data, asbytes=True) if packing == ".zst" else data


def rows_of(folder: Path, name: str, content: str | bytes, **options: Any) -> list[Row]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(PairFile(path, **options).rows())


def pairs_of(rows: list[Row]) -> list[tuple[str | None, str | None, str | None]]:
    return [(row.premise, row.hypothesis, row.label) for row in rows]


# Formats


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, suffix: str, packing: str) -> None:
    plain = tmp_path / f"plain{suffix}"
    WRITERS[suffix](plain)
    path = tmp_path / f"FILE{suffix.upper()}{packing}"
    path.write_bytes(pack(plain.read_bytes(), packing))
    file = PairFile(path)
    rows = list(file.rows())
    assert pairs_of(rows) == PAIRS
    assert [row.number for row in rows] == [1, 2, 3]
    assert all(row.error is None and row.parsed for row in rows)
    assert file.fields == ["premise", "hypothesis", "label"]
    assert list(file.rows()) == rows, "a file can be read again"


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    file = PairFile(tmp_path / "a.parquet")
    rows = list(file.rows())
    assert pairs_of(rows) == PAIRS
    assert {row.raw for row in rows} == {""}
    [chunk] = file.chunks(10)
    assert chunk.table is not None and chunk.table.num_rows == 3 and chunk.rows == rows


def test_several_packed_parts_are_one_file(tmp_path: Path) -> None:
    parts = [b"premise\thypothesis\n", b"a\tb\nc", b"\td\n"]
    for packing in (".gz", ".zst"):
        rows = rows_of(tmp_path, f"a.tsv{packing}", b"".join(pack(part, packing) for part in parts))
        assert pairs_of(rows) == [("a", "b", None), ("c", "d", None)]


def test_given_format_wins_over_the_name(tmp_path: Path) -> None:
    assert pairs_of(rows_of(tmp_path, "data.dat", "premise,hypothesis\na,b\n", format="csv")) == [("a", "b", None)]
    packed = gzip.compress(b"premise,hypothesis\na,b\n")
    assert pairs_of(rows_of(tmp_path, "data.dat.gz", packed, format=".csv")) == [("a", "b", None)]
    assert pairs_of(rows_of(tmp_path, "data.bin", packed, format="CSV.gz")) == [("a", "b", None)]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.xlsx", b"x", {}, r"a\.xlsx: unknown format; expected \.tsv"),
        ("tsv", b"x", {}, "unknown format"),
        ("a.gz", b"x", {}, "unknown format"),
        ("a.tsv", b"x", {"format": "xml"}, "--format; found 'xml'"),
        ("a.tsv", b"", {}, "the file is empty"),
        ("a.tsv.gz", gzip.compress(b"", mtime=0), {}, "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf", {}, "the file is empty"),
        ("a.jsonl.zst", pack(b"", ".zst"), {}, "the file is empty"),
        ("a.tsv", "premise\thypothesis\n".encode("utf-16"), {}, "UTF-16 text; expected UTF-8"),
        ("a.csv.gz", gzip.compress(b"\xfe\xff\0p", mtime=0), {}, "UTF-16 text"),
        ("a.parquet.gz", b"x", {}, "its own compression"),
        ("a.tsv", b"\npremise\thypothesis\n", {}, "unusable header: blank line"),
        ("a.tsv", b"premise\thypothesis\xff\n", {}, "unusable header: not valid UTF-8"),
        ("a.csv", b'premise,"hypothesis\n', {}, "unusable header: a quote is opened and never closed"),
        ("a.tsv", b"a\tpremise\ta\n", {}, "two columns have the same name; found 'a'"),
        ("a.jsonl", b"premise\thypothesis\na\tb\n", {}, "no JSON object in the first 2 lines"),
        ("a.parquet", b"PAR1 but not really PAR1", {}, "a.parquet: cannot be read"),
        ("a.zip", b"PK\x03\x04 but not really", {}, "not a zip archive"),
        ("a.tsv.gz", b"not gzip", {}, r"a\.tsv\.gz: cannot be read"),
        ("a.tsv.zst", b"not zstd", {}, "cannot be read"),
    ],
)
def test_wrong_files_are_refused_at_once(
    tmp_path: Path, name: str, content: bytes, options: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        PairFile(tmp_path / name, **options)


def test_missing_file_folder_and_odd_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tsv: no such file"):
        PairFile(tmp_path / "nowhere.tsv")
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        PairFile(tmp_path / "folder.tsv")
    with pytest.raises(InputError, match="cannot be read"):
        PairFile("nul\0.tsv")


# Standard input and pipes


class Stdin:
    def __init__(self, data: bytes):
        self.buffer = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def test_standard_input_is_streamed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b'{"premise": "a", "hypothesis": "b"}\nbad\n'))
    file = PairFile("-", format="jsonl")
    assert [row.premise for row in file.rows()] == ["a", None]
    with pytest.raises(InputError, match="a pipe can be read only once"):
        list(file.rows())


def test_standard_input_may_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    for packing in (".gz", ".zst"):
        monkeypatch.setattr("sys.stdin", Stdin(pack(b"premise\thypothesis\na\tb\n", packing)))
        assert pairs_of(list(PairFile("-", format=f"tsv{packing}").rows())) == [("a", "b", None)]


def test_standard_input_that_does_not_wait_is_read_to_its_end() -> None:
    """As node and others hand their pipes over: a read with nothing there yet is not the end."""
    code = (
        "from bertnli.data.pairs import PairFile; file = PairFile('-', format='tsv'); print(flush=True); "
        "print(sum(1 for _ in file.rows()))"
    )
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        pipe.write(b"premise\thypothesis\n")
        with subprocess.Popen([sys.executable, "-c", code], stdin=reading, stdout=subprocess.PIPE) as child:
            os.close(reading)
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            time.sleep(0.3)
            pipe.write(b"a\tb\nc\td\n")
            pipe.close()
            assert child.stdout.read() == b"2\n"


def test_standard_input_needs_a_format_that_streams() -> None:
    with pytest.raises(InputError, match="--format"):
        PairFile("-")
    with pytest.raises(InputError, match="expected a regular file"):
        PairFile("-", format="parquet")


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe.tsv"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("premise\thypothesis\na\tb\n",))
    writer.start()
    assert pairs_of(list(PairFile(path).rows())) == [("a", "b", None)]
    writer.join()


# Zip archives


@pytest.fixture
def snli_zip(tmp_path: Path) -> Path:
    """As SNLI's own archive: each split as .txt and .jsonl, and what macOS leaves."""
    path = tmp_path / "snli_1.0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("__MACOSX/snli_1.0/._snli_1.0_test.jsonl", "snli_1.0/.DS_Store", "snli_1.0/Icon\r"):
            archive.writestr(name, b"\0\5\x16\7")
        archive.writestr("snli_1.0/README.txt", "Read me.\n")
        for split in ("dev", "test", "train"):
            archive.writestr(
                f"snli_1.0/snli_1.0_{split}.txt", f"gold_label\tsentence1\tsentence2\nneutral\t{split}\tas txt\n"
            )
            row = {"gold_label": "neutral", "sentence1": split, "sentence2": "as json"}
            archive.writestr(f"snli_1.0/snli_1.0_{split}.jsonl", json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("snli_1.0/snli_1.0_test.txt", ("test", "as txt", "neutral")),
        ("snli_1.0/snli_1.0_test.jsonl", ("test", "as json", "neutral")),
        ("test", ("test", "as json", "neutral")),
        ("dev.txt", ("dev", "as txt", "neutral")),
    ],
)
def test_zip_member_by_fragment(snli_zip: Path, fragment: str, expected: tuple[str, str, str]) -> None:
    assert pairs_of(list(PairFile(f"{snli_zip}#{fragment}").rows())) == [expected]


@pytest.mark.parametrize("fragment", ["", "#", "#snli"])
def test_unclear_zip_member_is_refused_with_the_list(snli_zip: Path, fragment: str) -> None:
    with pytest.raises(
        InputError, match=r"which member\?.*snli_1\.0_dev\.jsonl.*snli_1\.0_train\.txt.*name one"
    ) as error:
        PairFile(f"{snli_zip}{fragment}")
    assert "MACOSX" not in str(error.value) and "DS_Store" not in str(error.value)


def test_unknown_zip_member_is_refused_with_the_list(snli_zip: Path) -> None:
    with pytest.raises(InputError, match=r"no member is called 'nowhere'.*snli_1\.0_dev\.txt"):
        PairFile(f"{snli_zip}#nowhere")


def test_zip_with_one_readable_member_needs_no_fragment(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("picture.png", b"x")
        archive.writestr("inside/pairs.csv.gz", gzip.compress(b"premise,hypothesis\na,b\n"))
    file = PairFile(tmp_path / "a.zip")
    assert pairs_of(list(file.rows())) == [("a", "b", None)]
    assert file.name.endswith("a.zip#inside/pairs.csv.gz")


def test_the_whole_name_of_a_zip_member_wins(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("more/dev.tsv", "dev.tsv", "dev.tsv.gz"):
            archive.writestr(name, pack(f"premise\thypothesis\n{name}\tb\n".encode(), name[7:]))
    assert pairs_of(list(PairFile(f"{tmp_path}/a.zip#dev.tsv").rows())) == [("dev.tsv", "b", None)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pairs.tsv", True),
        ("pairs.jsonl.gz", True),
        ("pairs.dat", False),
        ("-", False),
        ("us.zip-codes.dat", False),
        ("us.zip-codes.tsv", True),
        ("snli.zip.extracted/part-00000", False),
        ("a.zip#b.dat", False),  # a file of that name
        ("told.zip", True),
        ("told.zip#pairs.csv", True),
        ("untold.zip", False),
        ("untold.zip#data/pairs.dat", False),
        ("nowhere.zip", True),
    ],
)
def test_a_name_says_its_format_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for archive, member in (("told.zip", "pairs.csv"), ("untold.zip", "data/pairs.dat"), ("a.zip", "b.tsv")):
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(member, "premise,hypothesis\na,b\n")
    Path("a.zip#b.dat").touch()
    assert says_format(name) == says


def test_zip_without_readable_member_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("picture.png", b"x")
    with pytest.raises(InputError, match="no file that can be read"):
        PairFile(tmp_path / "a.zip")


def test_a_file_whose_name_holds_a_fragment_is_a_file(tmp_path: Path) -> None:
    assert pairs_of(rows_of(tmp_path, "a.zip#b.tsv", "premise\thypothesis\na\tb\n")) == [("a", "b", None)]


# Columns


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("label,premise,hypothesis", {}, ("premise", "hypothesis", "label")),
        ("gold_label,sentence1,sentence2", {}, ("sentence1", "sentence2", "gold_label")),
        ("text,text_pair", {}, ("text", "text_pair", None)),
        ("Text,TEXT_PAIR,Gold_Label", {}, ("Text", "TEXT_PAIR", "Gold_Label")),
        ("sentence1,sentence2,premise,hypothesis", {}, ("premise", "hypothesis", None)),
        ("premise,sentence1,sentence2,gold_label,label", {}, ("sentence1", "sentence2", "label")),
        ("a,b,c", {"columns": Columns("a", "c", "b")}, ("a", "c", "b")),
        ("A,hypothesis", {"columns": Columns(premise="a")}, ("A", "hypothesis", None)),
        ("premise,hypothesis,claim", {"columns": Columns(hypothesis="claim")}, ("premise", "claim", None)),
        (
            "sentence1,sentence2,sentence1_binary_parse,sentence2_binary_parse",
            {"prefer_parse": True},
            ("sentence1_binary_parse", "sentence2_binary_parse", None),
        ),
        ("sentence1,sentence2,sentence1_binary_parse,sentence2_binary_parse", {}, ("sentence1", "sentence2", None)),
        ("sentence1,sentence2,sentence1_binary_parse", {"prefer_parse": True}, ("sentence1", "sentence2", None)),
    ],
)
def test_columns_are_found(
    tmp_path: Path, header: str, options: dict[str, Any], expected: tuple[str, str, str | None]
) -> None:
    (tmp_path / "a.csv").write_text(header + "\n")
    assert PairFile(tmp_path / "a.csv", **options).columns == Columns(*expected)
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(header.split(","), "x")) + "\n")
    assert PairFile(tmp_path / "a.jsonl", **options).columns == Columns(*expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(),
            r"no columns with the sentence pairs; found columns 'a', 'b'; expected premise/hypothesis or .*--premise",
        ),
        (Columns(premise="a"), "no columns with the sentence pairs"),
        (
            Columns(premise="c", hypothesis="b"),
            r"no column 'c'; found columns 'a', 'b'; fix --premise .*data\.columns",
        ),
        (Columns(premise="a", hypothesis="c"), "no column 'c'.*--hypothesis"),
        (Columns("a", "b", "gold"), "no column 'gold'.*--label"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, columns: Columns, message: str) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n")
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": "y"}\n')
    for name in ("a.tsv", "a.jsonl"):
        with pytest.raises(InputError, match=message):
            PairFile(tmp_path / name, columns=columns)


@pytest.mark.parametrize(
    ("fields", "columns", "twice"),
    [
        (("sentence1", "sentence2"), Columns(premise="sentence2"), "sentence2"),
        (("premise", "hypothesis"), Columns(hypothesis="premise"), "premise"),
        (("A", "b"), Columns("a", "A"), "A"),
    ],
)
def test_one_column_is_not_both_sentences(
    tmp_path: Path, fields: tuple[str, str], columns: Columns, twice: str
) -> None:
    (tmp_path / "a.tsv").write_text("\t".join(fields) + "\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(fields, "x")) + "\n")
    for name in ("a.tsv", "a.jsonl"):
        with pytest.raises(InputError, match=f"are the same column; found '{twice}'; name both with --premise and"):
            PairFile(tmp_path / name, columns=columns)


def test_json_columns_come_from_the_first_object_that_has_them(tmp_path: Path) -> None:
    lines = (
        'nonsense\n{"x": 1}\n{"Sentence1": "a", "Sentence2": "b", "extra": 2}\n{"premise": "c", "hypothesis": "d"}\n'
    )
    (tmp_path / "a.jsonl").write_text(lines)
    file = PairFile(tmp_path / "a.jsonl")
    assert file.fields == ["Sentence1", "Sentence2", "extra"]
    assert [row.error for row in file.rows()][1:] == ["no key 'Sentence1'", None, "no key 'Sentence1'"]


def test_parse_columns_are_read_as_the_book_does(tmp_path: Path) -> None:
    def extract_text(text: str) -> str:  # as the book describes it
        text = re.sub(r"\(", "", text)
        text = re.sub(r"\)", "", text)
        return re.sub(r"\s{2,}", " ", text).strip()

    parses = [
        "( ( This ( church choir ) ) ( sings ( to ( the masses ) ) ) . )",
        "( Two\u00a0 \x85 ( men\u00a0sleep ) )",
    ]
    header = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1\tsentence2\n"
    text = header + f"{parses[0]}\t{parses[1]}\tA\tB\n" + "( ( ) )\t( b )\tA\tB\n"
    rows = rows_of(tmp_path, "a.txt", text, prefer_parse=True)
    assert (rows[0].premise, rows[0].hypothesis) == (extract_text(parses[0]), extract_text(parses[1]))
    assert rows[0].premise == "This church choir sings to the masses ."
    assert rows[1].error == "empty premise"
    assert pairs_of(rows_of(tmp_path, "a.txt", text))[0] == ("A", "B", None)


# Rows, format by format


def check(rows: list[Row], expected: list[tuple[str | None, bool, str]]) -> None:
    """`expected`: (error, parsed, raw) of each row."""
    assert [(row.error, row.parsed, row.raw) for row in rows] == expected
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        if not row.parsed:
            assert (row.premise, row.hypothesis, row.label) == (None, None, None)


def test_tsv_rows(tmp_path: Path) -> None:
    lines = [
        b'He said "hi\t"bye" he said\t-',  # quotes mean nothing
        b"one\x0btwo\x0cthree\x1cfour\xc2\x85five\tsix\xe2\x80\xa8seven\rend\tneutral",  # none of these ends a line
        b"a\tb\tneutral\r",  # a Windows line end
        b"a\tb\r\r",
        b"a\tb\tc\td",
        b"alone",
        b"",
        b"\r",
        b"a\tb\xff\tneutral",
        b" \tb\tneutral",
        b"a\t\xe3\x80\x80\tneutral",  # an ideographic blank is blank
        b"a\tb\0c\tneutral",
        b"a\tb\t ",
    ]
    rows = rows_of(tmp_path, "a.tsv", b"\xef\xbb\xbfpremise\thypothesis\tlabel\r\n" + b"\n".join(lines) + b"\n")
    check(
        rows,
        [
            (None, True, 'He said "hi\t"bye" he said\t-'),
            (None, True, "one\x0btwo\x0cthree\x1cfour\x85five\tsix\u2028seven\rend\tneutral"),
            (None, True, "a\tb\tneutral"),
            ("2 cells, expected 3", False, "a\tb\r"),
            ("4 cells, expected 3", False, "a\tb\tc\td"),
            ("1 cells, expected 3", False, "alone"),
            ("blank line", False, ""),
            ("blank line", False, ""),
            ("not valid UTF-8", False, "a\tb\\xff\tneutral"),
            ("empty premise", True, " \tb\tneutral"),
            ("empty hypothesis", True, "a\t\u3000\tneutral"),
            ("NUL character in the hypothesis", True, "a\tb\0c\tneutral"),
            (None, True, "a\tb\t "),
        ],
    )
    assert rows[0][1:4] == ('He said "hi', '"bye" he said', "-")
    assert rows[-1].label is None


def test_last_line_without_line_feed(tmp_path: Path) -> None:
    assert pairs_of(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb")) == [("a", "b", None)]
    assert pairs_of(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb\r")) == [("a", "b", None)]
    assert len(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb\n\n")) == 2
    assert rows_of(tmp_path, "a.tsv", "premise\thypothesis") == []


def test_snli_lines_may_leave_out_the_annotators(tmp_path: Path) -> None:
    header = "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\n"
    text = header + "neutral\ta\tb\tneutral\nneutral\ta\tb\tneutral\tx\t\t\t\nneutral\ta\tb\nneutral" + "\ta" * 8 + "\n"
    assert [row.error for row in rows_of(tmp_path, "a.txt", text)] == [
        None,
        None,
        "3 cells, expected 8",
        "9 cells, expected 8",
    ]


def test_csv_rows(tmp_path: Path) -> None:
    text = (
        "premise,hypothesis,label\r\n"
        '"a, ""quoted""","two\r\nlines\n",neutral\r\n'  # line ends inside a cell are the cell's own
        'He is 5" tall,b,neutral\r\n'  # as Python's csv takes it
        '"a" x,b,neutral\r\n'
        "a,b\rc,neutral\r\n"
        "a,b,neutral\r\r\n"
        "a,b\r\n"
        "\r\n"
        '"a","b","neutral"\r\n'
        '"never closed,b,neutral\r\n'
        "c,d,neutral\r\n"
        "e,f,neutral"
    )
    rows = rows_of(tmp_path, "a.csv", text)
    check(
        rows,
        [
            (None, True, '"a, ""quoted""","two\r\nlines\n",neutral'),
            (None, True, 'He is 5" tall,b,neutral'),
            ("not CSV: ',' expected after '\"'", False, '"a" x,b,neutral'),
            ("a carriage return inside an unquoted cell", False, "a,b\rc,neutral"),
            ("a carriage return inside an unquoted cell", False, "a,b,neutral\r"),
            ("2 cells, expected 3", False, "a,b"),
            ("blank line", False, ""),
            (None, True, '"a","b","neutral"'),
            ("a quote is opened and never closed", False, '"never closed,b,neutral'),
            (None, True, "c,d,neutral"),
            (None, True, "e,f,neutral"),
        ],
    )
    assert pairs_of(rows)[0] == ('a, "quoted"', "two\r\nlines\n", "neutral")
    assert pairs_of(rows)[1] == ('He is 5" tall', "b", "neutral")


def test_csv_record_that_fails_in_its_second_line_costs_one_line(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.csv", 'premise,hypothesis\n"a\nb" c,d\ne,f\n')
    assert [(row.raw, row.parsed) for row in rows] == [('"a', False), ('b" c,d', True), ("e,f", True)]


def test_csv_quote_left_open_too_long_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_QUOTED", 1000)
    lines = ['"open,b', *[f"premise {number},hypothesis" for number in range(500)], 'close",d', "e,f"]
    rows = rows_of(tmp_path, "a.csv", "premise,hypothesis\n" + "\n".join(lines) + "\n")
    assert [row.raw for row in rows] == lines
    assert [row.number for row in rows if row.error] == [1]


def test_csv_record_with_bytes_that_are_no_utf8_is_one_bad_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.csv", b'premise,hypothesis\n"a\n\xff","b"\nc,d\n')
    check(rows, [("not valid UTF-8", False, '"a\n\\xff","b"'), (None, True, "c,d")])


def test_csv_header_may_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"premise","hypo\nthesis",hypothesis\na,b,c\n')
    file = PairFile(path)
    assert file.fields == ["premise", "hypo\nthesis", "hypothesis"]
    assert file.header == '"premise","hypo\nthesis",hypothesis'
    assert pairs_of(list(file.rows())) == [("a", "c", None)]


@pytest.mark.parametrize(
    ("line", "error", "parsed"),
    [
        ('{"premise": "a", "hypothesis": "b", "x": NaN, "x": 1}', None, True),
        (' {"premise": "a\\u00e4\\ud83d\\udeb6", "hypothesis": "b"} ', None, True),
        ('{"premise": null, "hypothesis": "b"}', "null premise", True),
        ('{"premise": "a", "hypothesis": 3}', "the hypothesis is a number, not text", True),
        ('{"premise": ["a"], "hypothesis": "b"}', "the premise is a list, not text", True),
        ('{"premise": {}, "hypothesis": "b"}', "the premise is an object, not text", True),
        ('{"premise": true, "hypothesis": "b"}', "the premise is a boolean, not text", True),
        ('{"premise": "a"}', "no key 'hypothesis'", True),
        ("{}", "no key 'premise'", True),
        ('{"premise": "a", "hypothesis": "\\n"}', "empty hypothesis", True),
        ('{"premise": "a\\u0000", "hypothesis": "b"}', "NUL character in the premise", True),
        ('{"premise": "a", "hypothesis": "\\ud800"}', "the hypothesis is not valid Unicode", True),
        ("", "blank line", False),
        ("   ", "not JSON: Expecting value at character 4", False),
        ('{"premise": "a", ', "not JSON: Expecting property name", False),
        ('["a", "b"]', "a list, expected a JSON object", False),
        ("null", "null, expected a JSON object", False),
        ('"a"', "a string, expected a JSON object", False),
        ('{"premise": "a\tb", "hypothesis": "b"}', "not JSON: Invalid control character", False),
        ('{"premise": "a", "hypothesis": "b"} {}', "not JSON: Extra data", False),
        ('{"premise": ' + "[" * 200_000, "not JSON: nested too deeply", False),
        ('{"premise": "a", "hypothesis": "b", "n": ' + "9" * 10_000 + "}", "not JSON: a number is too long", False),
    ],
)
def test_json_rows(tmp_path: Path, line: str, error: str | None, parsed: bool) -> None:
    good = '{"premise": "p", "hypothesis": "h"}'
    first, row, last = rows_of(tmp_path, "a.jsonl", f"{good}\n{line}\n{good}")
    assert (row.parsed, row.raw) == (parsed, line)
    assert row.error == error or (error and row.error and row.error.startswith(error))
    assert (first.error, last.error, last.number) == (None, None, 3), "the neighbours are not harmed"
    for text in (row.premise, row.hypothesis):
        assert text is None or text.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"neutral"', "neutral"),
        ("1", "1"),
        ("-1", "-1"),
        ("2.0", "2"),
        ("null", None),
        ("NaN", None),
        ('" "', None),
        ("true", "true"),
        ("[1]", "[1]"),
        ('"\\ud800"', "\\ud800"),
    ],
)
def test_json_labels_as_text(tmp_path: Path, value: str, text: str | None) -> None:
    [row] = rows_of(tmp_path, "a.jsonl", f'{{"premise": "a", "hypothesis": "b", "label": {value}}}\n')
    assert (row.label, row.error) == (text, None)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_million_characters(tmp_path: Path, suffix: str) -> None:
    long = "word, " * 200_000
    plain = tmp_path / f"a{suffix}"
    if suffix == ".tsv":
        plain.write_text(f"premise\thypothesis\n{long}\tb\n")
    elif suffix == ".csv":
        plain.write_text(f'premise,hypothesis\n"{long}",b\n')
    else:
        plain.write_text(json.dumps({"premise": long, "hypothesis": "b"}) + "\n")
    assert pairs_of(list(PairFile(plain).rows())) == [(long, "b", None)]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertnli.data.formats.MAX_LINE", 1 << 20)
    good = b"premise\thypothesis\n" + b"a\tb\n" * 100_000
    with pytest.raises(RunError, match=r"cannot be read beyond row \d+: a line is longer than 1 MiB"):
        rows_of(tmp_path, "a.tsv", good + b"x" * (3 << 20))


# Parquet


def test_parquet_accepts_every_kind_of_text(tmp_path: Path) -> None:
    texts = ["a", None, "c"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
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


# Chunks, memory, damage


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_chunks_of_a_fixed_size(tmp_path: Path, suffix: str) -> None:
    make: dict[str, Callable[[int], str]] = {
        ".tsv": lambda number: f"a{number}\tb\n",
        ".csv": lambda number: f'"a{number}",b\n',
        ".jsonl": lambda number: f'{{"premise": "a{number}", "hypothesis": "b"}}\n',
    }
    header = {".tsv": "premise\thypothesis\n", ".csv": "premise,hypothesis\n", ".jsonl": ""}[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_text(header + "".join(map(make[suffix], range(2500))))  # more than the JSON lines probed
    chunks = list(PairFile(path).chunks(1000))
    assert [len(chunk.rows) for chunk in chunks] == [1000, 1000, 500]
    assert [row.premise for chunk in chunks for row in chunk.rows] == [f"a{number}" for number in range(2500)]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.tsv.gz"
        path.write_bytes(gzip.compress(b"premise\thypothesis\n" + b"a man plays a guitar\tsomeone sleeps\n" * rows))
        tracemalloc.start()
        assert sum(len(chunk.rows) for chunk in PairFile(path).chunks(100)) == rows
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(120_000) < 1.5 * peak(20_000)


def test_memory_does_not_grow_with_a_parquet_row_group(tmp_path: Path) -> None:
    texts = [os.urandom(500).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"premise": texts, "hypothesis": texts}), tmp_path / "a.parquet", row_group_size=20_000)
    before, high = pa.total_allocated_bytes(), 0
    for _ in PairFile(tmp_path / "a.parquet").chunks(100):
        high = max(high, pa.total_allocated_bytes() - before)
    assert high < 10_000_000, "the row group itself has 40 MB"


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_cut_short_says_how_far_it_was_read(tmp_path: Path, packing: str) -> None:
    text = "premise\thypothesis\n" + "".join(f"{os.urandom(20).hex()}\tb{number}\n" for number in range(50_000))
    whole = pack(text.encode(), packing)
    path = tmp_path / f"a.tsv{packing}"
    path.write_bytes(whole[:-1000])
    file = PairFile(path)
    with pytest.raises(RunError, match=rf"a\.tsv\{packing}: cannot be read beyond row (\d+)") as error:
        list(file.rows())
    reached = int(str(error.value).partition("beyond row ")[2].partition(":")[0])
    if packing == ".gz":  # to the last whole row that is there
        assert reached == zlib.decompressobj(31).decompress(whole[:-1000]).count(b"\n") - 1
    else:
        assert 30_000 < reached < 50_000
    path.write_bytes(whole[:20])
    with pytest.raises(InputError, match="cannot be read"):
        PairFile(path)


def test_a_damaged_zip_member_says_how_far_it_was_read(tmp_path: Path) -> None:
    text = "premise\thypothesis\n" + "".join(f"{os.urandom(20).hex()}\tb\n" for _ in range(50_000))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tsv", text)
    data = bytearray(path.read_bytes())
    at = len(data) * 9 // 10
    data[at : at + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"a\.zip#a\.tsv: cannot be read beyond row [1-9]\d*"):
        list(PairFile(path).rows())


def test_a_damaged_parquet_says_how_far_it_was_read(tmp_path: Path) -> None:
    texts = [os.urandom(20).hex() for _ in range(20_000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"premise": texts, "hypothesis": texts}), path, row_group_size=1000)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 20_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"a\.parquet: cannot be read beyond row [1-9]\d*"):
        list(PairFile(path).chunks(1000))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        PairFile(path)


# Labelled rows


def labelled(tmp_path: Path, labels: list[str], **options: Any) -> tuple[list[LabelledPair], Any]:
    text = "premise\thypothesis\tlabel\n" + "".join(f"p{at}\th\t{label}\n" for at, label in enumerate(labels, 1))
    (tmp_path / "a.tsv").write_text(text)
    found = read_labelled(PairFile(tmp_path / "a.tsv"), SNLI, **options)
    return list(found), found


def test_labels_become_indices_and_rows_without_gold_are_counted(tmp_path: Path) -> None:
    pairs, found = labelled(tmp_path, ["neutral", "-", " Contradiction", "-1", "ENTAILMENT"])
    assert pairs == [("p1", "h", 1, 1), ("p3", "h", 2, 3), ("p5", "h", 0, 5)]
    assert (found.read, found.used, found.no_gold, found.bad) == (5, 3, 2, 0)
    assert list(found) == pairs and found.read == 5, "reading again counts again"


def test_bad_rows_are_refused_with_the_first_five(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        labelled(tmp_path, ["neutral", "maybe", "", "entails", "x", "y", "z", "neutral"])
    message = str(error.value)
    assert "6 bad rows of 8" in message and "data.skip_bad_rows" in message
    assert "row 2: label 'maybe', expected entailment, neutral, contradiction; row 3: no label" in message
    assert "row 6" in message and "row 7" not in message


def test_no_pair_comes_after_the_first_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\tlabel\na\tb\tneutral\nbad\nc\td\tneutral\n")
    pairs = iter(read_labelled(PairFile(tmp_path / "a.tsv"), SNLI))
    assert next(pairs).number == 1
    with pytest.raises(InputError, match="1 bad row of 3; found row 2: 1 cells, expected 3"):
        next(pairs)


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    pairs, found = labelled(tmp_path, ["maybe", "neutral", "-", "?"], skip_bad_rows=True)
    assert [pair.number for pair in pairs] == [2]
    assert (found.read, found.used, found.no_gold, found.bad) == (4, 1, 1, 2)
    assert found.first_bad[1] == (4, "label '?', expected entailment, neutral, contradiction")


def test_integer_labels_need_names(tmp_path: Path) -> None:
    advice = r"--label-names 0=entailment,1=neutral,2=contradiction \(in a run file: data\.label_names\)"
    with pytest.raises(InputError, match=f"label '2', .*{advice}"):
        labelled(tmp_path, ["2", "0"])
    pairs, found = labelled(tmp_path, ["2", "0", "-1", "3"], label_names={"0": "neutral", "2": "Entailment", "3": "-"})
    assert [pair.label for pair in pairs] == [0, 1]
    assert found.no_gold == 2
    with pytest.raises(InputError, match=r"data\.label_names\): 0; found 'yes'; expected one of entailment"):
        labelled(tmp_path, ["0"], label_names={"0": "yes"})


def test_integer_label_keys_may_be_integers(tmp_path: Path) -> None:
    pairs, _ = labelled(tmp_path, ["1"], label_names={1: "contradiction"})
    assert [pair.label for pair in pairs] == [2]


def test_a_file_without_usable_rows_or_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row can be used; found 2 rows, 2 without a gold label, 0 bad"):
        labelled(tmp_path, ["-", "-"])
    with pytest.raises(InputError, match="no row can be used; found 0 rows"):
        labelled(tmp_path, [])
    with pytest.raises(InputError, match=r"no row can be used; .*1 bad \(row 1: label 'x'"):
        labelled(tmp_path, ["x"], skip_bad_rows=True)
    (tmp_path / "b.tsv").write_text("premise\thypothesis\tgold\na\tb\tneutral\n")
    with pytest.raises(InputError, match=r"no label column; found columns 'premise', .*'gold'.*--label"):
        read_labelled(PairFile(tmp_path / "b.tsv"), SNLI)


# Real SNLI


def test_snli_test_split(shared_data: Path) -> None:
    file = PairFile(shared_data / "snli_1.0" / "snli_1.0_test.jsonl.gz")
    found = read_labelled(file, SNLI)
    assert sum(1 for _ in found) == 9824
    assert (found.read, found.no_gold, found.bad) == (10_000, 176, 0)


def test_snli_as_the_book_reads_it(shared_data: Path) -> None:
    path = shared_data / "snli_1.0" / "snli_1.0_test.jsonl.gz"
    file = PairFile(path, prefer_parse=True)
    assert file.columns.premise == "sentence1_binary_parse"
    rows = list(file.rows())
    assert all(row.error is None for row in rows)
    assert rows[0].hypothesis == "The church has cracks in the ceiling ."
    plain = [row.premise for row in PairFile(path).rows()]
    same = sum(a.replace(" ", "") == b.replace(" ", "") for a, b in zip(plain, (r.premise for r in rows), strict=True))  # type: ignore[union-attr]
    assert same > 9000, "the same words but for the parser's own spellings of quotes and brackets"
