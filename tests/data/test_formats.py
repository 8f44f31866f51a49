"""The format of a file, its bytes and its lines: packed files, wrong files, standard input, pipes, zip archives."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import BertnliError, InputError
from bertnli.data.formats import says_format
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import PairFile
from tests.support.pair_files import (
    PAIRS,
    WRITERS,
    pack,
    pairs_of,
    rows_of,
    write_parquet,
)


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf"),
        ("a.jsonl.zst", pack(b"", ".zst")),
        ("a.ndjson.gz", pack(b"", ".gz")),
        ("a.tsv", b"premise\thypothesis\n"),
        ("a.csv", b"premise,hypothesis"),
    ],
)
def test_a_file_of_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    file = PairFile(tmp_path / name)
    assert list(file.rows()) == list(file.rows()) == list(file.chunks(3)) == []
    expected = "no row in it" if "json" in name else "no label column"  # a table has columns without rows, too
    with pytest.raises(InputError, match=expected):
        list(read_labelled(file, ["entailment", "neutral"]))


def test_given_format_wins_over_the_name(tmp_path: Path) -> None:
    assert pairs_of(rows_of(tmp_path, "data.dat", "premise,hypothesis\na,b\n", format="csv")) == [("a", "b", None)]
    packed = gzip.compress(b"premise,hypothesis\na,b\n")
    assert pairs_of(rows_of(tmp_path, "data.dat.gz", packed, format=".csv")) == [("a", "b", None)]
    assert pairs_of(rows_of(tmp_path, "data.bin", packed, format="CSV.gz")) == [("a", "b", None)]


ZSTD = pack(b"x", ".zst")
LONG_ZSTD = b"\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00x"  # a window of 2 GiB, and one block of one byte as it is


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txl", b"x", {}, r"a\.txl: unknown format; expected \.tsv"),
        ("a.xlsx", b"x", {}, r"a\.xlsx: a format that is not read; expected \.tsv.*; save the sheet as CSV UTF-8"),
        ("a.orc", b"x", {}, r"not read; .*; write the table as \.parquet"),
        ("a.csv.bz2", b"x", {}, r"not read; .*; decompress it"),
        ("tsv", b"x", {}, "unknown format"),
        ("a.gz", b"x", {}, "unknown format"),
        ("a.tsv", b"x", {"format": "xml"}, r"--format .*; found 'xml'"),
        ("a.tsv", b"", {}, "the file is empty"),
        ("a.tsv.gz", gzip.compress(b"", mtime=0), {}, "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf", {}, "the file is empty"),
        ("a.jsonl.gz", b"", {}, "the file is empty"),
        ("a.tsv", "premise\thypothesis\n".encode("utf-16"), {}, "UTF-16 text; expected UTF-8"),
        ("a.csv.gz", gzip.compress(b"\xfe\xff\0p", mtime=0), {}, "UTF-16 text"),
        ("a.parquet.gz", b"x", {}, "its own compression"),
        ("a.tsv", b"\npremise\thypothesis\n", {}, "unusable header: blank line"),
        ("a.tsv", b"premise\thypothesis\xff\n", {}, "unusable header: not valid UTF-8"),
        ("a.csv", b'premise,"hypothesis\n', {}, "unusable header: a quote is opened and never closed"),
        ("a.tsv", b"a\tpremise\ta\n", {}, "two columns have the same name; found 'a'"),
        ("a.jsonl", b"a\tc\na\tb\n", {}, "no JSON object in the first 2 lines"),
        ("a.parquet", b"PAR1 but not really PAR1", {}, "a.parquet: cannot be read"),
        ("a.zip", b"PK\x03\x04 but not really", {}, "not a zip archive"),
        ("a.tsv.gz", b"\0not gzip", {}, r"a\.tsv\.gz: cannot be read"),
        ("a.tsv.zst", b"\0not zstd", {}, "cannot be read"),
        (
            "a.tsv.zst",
            LONG_ZSTD,
            {},
            r"longer than 128 MiB; unpack it first, with: zstd -d --long=31 \S+a\.tsv",
        ),
        ("a.tsv.gz", b"caf\xe9", {}, "text; expected gzip data .*; take that ending from its name"),
        ("a.tsv.zst", b"premise", {}, "text; expected zstd data .*; take that ending from its name"),
        ("a.tsv.gz", ZSTD, {}, r"zstd data; expected gzip data .*; give its name the ending \.zst in place of \.gz"),
        ("a.tsv.zst", gzip.compress(b"x"), {}, r"gzip data; expected zstd data .*\.gz in place of \.zst"),
        (
            "a.tsv.gz",
            gzip.compress(gzip.compress(b"x")),
            {},
            r"packed in \.gz; .*; unpack it; what is inside needs the ending \.gz",
        ),
        ("a.tsv", gzip.compress(b"x"), {}, r"gzip data; expected text .*; give its name the ending \.gz$"),
        ("a.tsv", ZSTD, {}, r"zstd data; .*\.zst$"),
        ("a.parquet", b"premise,hypothesis", {}, "text; expected a Parquet file .*; give its name the ending of its"),
        ("a.parquet", gzip.compress(b"PAR1"), {}, "gzip data; expected a Parquet file .*; unpack it$"),
        ("a.tsv.gz", gzip.compress(b"PAR1"), {}, r"a Parquet file, packed in \.gz; .*needs the ending \.parquet$"),
        ("a.tsv.gz", b"version https://git-lfs.github.com/spec/v1", {}, "a pointer of git-lfs; .*git lfs pull"),
        ("a.parquet", b"<!DOCTYPE html>", {}, "an HTML or XML page; .*get the file itself"),
        ("a.parquet", b"ARROW1\0\0", {}, r"an Arrow file; .*\.arrow"),
        ("a.parquet", b"PARE\0\0\0\0PARE", {}, "an encrypted Parquet file; .*; decrypt it"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "-: the file is empty"),
        (gzip.compress(b"x"), "gzip data; .*; give --format tsv.gz$"),
        (ZSTD, "zstd data; .*; give --format tsv.zst$"),
        (b"PAR1", "a Parquet file; .*; write it to a file whose name ends in .parquet$"),
    ],
)
def test_standard_input_of_another_kind(monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    with pytest.raises(InputError, match=message):
        PairFile("-", format="tsv")


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


# --- gzip


MEMBERS = gzip.compress(b"premise\thypothesis\na\tb\n") + gzip.compress(b"c\td\n")


@pytest.mark.parametrize("rest", [b"x", b"\x1f", b"\0\0junk", b"junk" * 100_000], ids=["x", "1f", "zeros", "long"])
def test_what_follows_gzip_data_is_left_out_and_told(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(MEMBERS + rest)
    file = PairFile(path)
    for _ in range(2):
        assert [row.premise for row in file.rows()] == ["a", "c"]
    what = "what follows its gzip data is not gzip data and is left out, as gunzip does"
    assert file.notes == [f"warning: {path}: {what}"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"junk" + MEMBERS, "Not a gzipped file"),
        (MEMBERS[:-1], "ended before the end-of-stream marker"),
        (MEMBERS + MEMBERS[:20], "ended before the end-of-stream marker"),
        (MEMBERS[:-6] + b"\xff\xff" + MEMBERS[-4:], "CRC check failed"),
        (MEMBERS[:-2] + b"\xff\xff", "Incorrect length of data"),
    ],
    ids=["no gzip", "cut", "a member cut", "checksum", "length"],
)
def test_damaged_gzip_data_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(data)
    with pytest.raises(BertnliError, match=message):
        list(PairFile(path).rows())


def test_zeros_after_gzip_data_are_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(MEMBERS + bytes(1000))
    file = PairFile(path)
    assert [row.premise for row in file.rows()] == ["a", "c"]
    assert not file.notes
