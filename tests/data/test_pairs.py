"""Files as chunks of rows: fixed sizes, little memory, damage is named with the row reached; real SNLI."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertnli.common.errors import InputError, RunError
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import PairFile
from tests.support.pair_files import (
    SNLI,
    pack,
)


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


# --- a file that changes while it is read

TABLE = "premise,hypothesis\n" + "a,b\n" * 50


def _later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


CHANGES = {
    "cut": (lambda path: os.truncate(path, 30), "30 bytes, at first"),
    "written": (_later, "that a program has written to it"),
    "replaced by its like": (_replaced, "another file of this name"),
    "gone": (Path.unlink, "No such file"),
}


@pytest.mark.parametrize(("change", "found"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_is_told(tmp_path: Path, change: Callable[[Path], None], found: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TABLE)
    file = PairFile(path)
    file.check_unchanged()
    change(path)
    with pytest.raises(RunError, match=rf"a\.csv: was changed while it was read; found .*{found}.*; start again"):
        file.check_unchanged()


def test_a_file_on_standard_input_that_changes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    with (tmp_path / "a.csv").open() as given:
        own = os.dup(0)
        os.dup2(given.fileno(), 0)
        try:
            monkeypatch.setattr("sys.stdin", given)
            file = PairFile("-", format="csv")
            file.check_unchanged()
            os.truncate(tmp_path / "a.csv", 30)
            with pytest.raises(RunError, match=r"^-: was changed while it was read; found 30 bytes"):
                file.check_unchanged()
        finally:
            os.dup2(own, 0)
            os.close(own)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.zip", "a.parquet"])
def test_another_file_is_not_read_in_place_of_the_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"premise": ["a"], "hypothesis": ["b"]}), path)
    elif name == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", TABLE)
    else:
        path.write_bytes(gzip.compress(TABLE.encode()) if name.endswith(".gz") else TABLE.encode())
    file = PairFile(path)
    first = list(file.rows())
    assert list(file.rows()) == first
    _replaced(path)
    with pytest.raises(RunError, match="was changed while it was read; found another file"):
        list(file.rows())
