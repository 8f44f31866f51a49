"""Archives from anybody: good ones unpack, bad ones end in SourceError and write nothing outside."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.fetch.entry import SourceError
from bertnli.fetch.unpack import unpack

ROWS = b"".join(b'{"row": %d}\n' % row for row in range(1000))


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


MAKERS = [pytest.param(make_zip, id="zip"), pytest.param(make_tar, id="tar")]
Maker = Callable[[Path, dict[str, bytes]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("make", MAKERS)
def test_wanted_members_only_by_the_end_of_their_path(make: Maker, tmp_path: Path, folder: Path) -> None:
    members = {"top-1.0/data/rows.jsonl": ROWS, "top-1.0/other_rows.jsonl": b"no", "top-1.0/setup.py": b"boom"}
    unpack(make(tmp_path / "a", members), {"data/rows.jsonl": "r.jsonl"}, folder, limit=10**6)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"r.jsonl": ROWS}


@pytest.mark.parametrize("make", MAKERS)
def test_only_the_first_lines(make: Maker, tmp_path: Path, folder: Path) -> None:
    archive = make(tmp_path / "a", {"x/rows.jsonl": ROWS})
    unpack(archive, {"rows.jsonl": "r"}, folder, limit=10**6, first_lines=100)
    assert (folder / "r").read_bytes() == b"".join(ROWS.splitlines(keepends=True)[:100])
    with pytest.raises(SourceError, match="found 1,000 lines, expected at least 1,001"):
        unpack(archive, {"rows.jsonl": "r"}, folder, limit=10**6, first_lines=1001)


@pytest.mark.parametrize("make", MAKERS)
def test_a_missing_and_a_doubled_member_are_named(make: Maker, tmp_path: Path, folder: Path) -> None:
    archive = make(tmp_path / "a", {"x/rows": ROWS, "y/rows": ROWS})
    with pytest.raises(SourceError, match="a does not contain z/rows"):
        unpack(archive, {"z/rows": "r"}, folder, limit=10**6)
    with pytest.raises(SourceError, match="contains both x/rows and y/rows"):
        unpack(archive, {"rows": "r"}, folder, limit=10**6)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a\\..\\..\\x", "C:\\x", "\\x"])
def test_a_path_outside_the_folder_is_refused(make: Maker, path: str, tmp_path: Path, folder: Path) -> None:
    archive = make(tmp_path / "a", {"rows": ROWS, path: b"boom"})
    with pytest.raises(SourceError, match="contains a path outside its folder"):
        unpack(archive, {"rows": "r"}, folder, limit=10**6)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE],
    ids=["symlink", "link", "dev", "fifo"],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as archive:
        info = tarfile.TarInfo("rows")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(SourceError, match="contains a link or device: 'rows'"):
        unpack(tmp_path / "a", {"rows": "r"}, folder, limit=10**6)


def test_a_symlink_in_a_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        info = zipfile.ZipInfo("rows")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="contains a link or device: 'rows'"):
        unpack(tmp_path / "a", {"rows": "r"}, folder, limit=10**6)


@pytest.mark.parametrize("make", MAKERS)
def test_a_decompression_bomb_is_refused_unwritten(make: Maker, tmp_path: Path, folder: Path) -> None:
    archive = make(tmp_path / "a", {"rows": ROWS, "zeros": bytes(10_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(SourceError, match="more than 1,000,000 bytes"):
        unpack(archive, {"rows": "r"}, folder, limit=10**6)
    assert list(folder.iterdir()) == []


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said(tmp_path: Path, folder: Path) -> None:
    body = make_zip(tmp_path / "a", {"rows": bytes(1_000_000)}).read_bytes()
    (tmp_path / "a").write_bytes(body.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(SourceError, match="damaged"):
        unpack(tmp_path / "a", {"rows": "r"}, folder, limit=10**5)
    assert (folder / "r").stat().st_size <= 1000


@pytest.mark.parametrize("make", MAKERS)
@given(data=st.data())
def test_a_damaged_archive_is_a_source_error(
    make: Maker, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut short, or with bytes changed anywhere: SourceError, or the right bytes where the damage touched nothing."""
    folder = tmp_path_factory.mktemp("damaged")
    body = bytearray(make(folder / "whole", {"x/rows": ROWS, "x/more": ROWS[::-1]}).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    archive = folder / "damaged"
    archive.write_bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body)
    (folder / "out").mkdir()
    try:
        unpack(archive, {"x/rows": "r"}, folder / "out", limit=10**6)
    except SourceError:
        return
    assert (folder / "out" / "r").stat().st_size == len(ROWS)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_rows_with_a_cell(make: Maker, end: str, tmp_path: Path, folder: Path) -> None:
    lines = [f"id\ttext\tset{end}", f"1\tTEST\tTRAIN{end}", f"2\tb\tTEST{end}", f"3\tc\tTESTING{end}", "4\td\tTEST"]
    archive = make(tmp_path / "a", {"x/rows.txt": "".join(lines).encode()})
    unpack(archive, {"rows.txt": "r"}, folder, limit=10**6, rows=("set", "TEST"))
    assert (folder / "r").read_bytes() == "".join([lines[0], lines[2], lines[4]]).encode()
    with pytest.raises(SourceError, match="no column 'split' in its header"):
        unpack(archive, {"rows.txt": "r"}, folder, limit=10**6, rows=("split", "TEST"))
    with pytest.raises(SourceError, match="no row with 'DEV' in column 'set'"):
        unpack(archive, {"rows.txt": "r"}, folder, limit=10**6, rows=("set", "DEV"))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("first_lines", [None, 100])
def test_lines_that_end_as_in_another_copy(make: Maker, first_lines: int | None, tmp_path: Path, folder: Path) -> None:
    there = ROWS.replace(b"\n", b"\r\n")
    for number, body in enumerate((ROWS, there)):
        archive = make(tmp_path / str(number), {"rows.jsonl": body})
        unpack(archive, {"rows.jsonl": str(number)}, folder, limit=10**6, first_lines=first_lines, crlf=True)
        assert (folder / str(number)).read_bytes() == b"".join(there.splitlines(keepends=True)[:first_lines])
