"""Files elsewhere: copied whole, once for each version; what fails is tried again, and what changes is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bertnli.common.errors import InputError, RunError
from bertnli.fetch import download, object_store
from bertnli.fetch.remote_files import StoredFile, local_copy, remote_file
from bertnli.fetch.resolve import check_name, resolve_data, shown_name
from tests.support.http_stand_in import Hosted, StandIn
from tests.support.memory_store import failing, memory_store

BODY = bytes(range(256)) * 4000  # 1 MB
URL = "memory://bucket/in/pairs.tsv"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
    with memory_store(monkeypatch) as files:
        files.pipe_file(URL, BODY)
        yield files


def test_a_copy_is_made_once_for_each_version(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_copy(URL)
    assert (path.name, path.read_bytes()) == ("pairs.tsv", BODY)
    with monkeypatch.context() as patch:
        failing(patch, "cat_file", [AssertionError("it is not read again")] * 9)
        assert local_copy(URL) == path
    store.pipe_file(URL, b"other")
    assert local_copy(URL).read_bytes() == b"other"
    path.write_bytes(b"cut")
    assert local_copy(URL).read_bytes() == b"other", "a copy of another size is none"
    store.pipe_file(URL, b"")
    assert local_copy(URL).read_bytes() == b""
    assert not list(path.parent.glob("*.part*"))


def test_what_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    failing(monkeypatch, "cat_file", [OSError("reset"), None, TimeoutError(), OSError("503"), b"short"], sizes)
    assert local_copy(URL).read_bytes() == BODY
    assert sizes[:3] == [100_000, 65_536, 100_000], "a smaller part after a failure, for a slow line"


def test_a_store_that_fails_for_ever_ends_in_an_error_and_the_next_try_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "cat_file", [None, None, *[OSError("503 Slow Down")] * 5])
        with pytest.raises(RunError, match=r"in/pairs\.tsv: the store fails: 503 Slow Down; .*continues"):
            local_copy(URL)
    sizes: list[int] = []
    failing(monkeypatch, "cat_file", [], sizes)
    assert local_copy(URL).read_bytes() == BODY
    assert sum(sizes) == len(BODY) - 200_000


def test_one_that_stalls_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "info", [fsspec.exceptions.FSTimeoutError()] * 5)
    with pytest.raises(RunError, match="the store fails: no answer in 30 s"):
        local_copy(URL)


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_file_that_changes_while_it_is_copied_is_told(
    store: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    original, calls = MemoryFileSystem.cat_file, 0

    def call(self: Any, *arguments: Any, **options: Any) -> bytes:
        nonlocal calls
        calls += 1
        found = original(self, *arguments, **options)
        if calls == after:
            self.pipe_file(URL, BODY[::-1])
        return found

    monkeypatch.setattr(MemoryFileSystem, "cat_file", call)
    with pytest.raises(RunError, match="was changed while it was read"):
        local_copy(URL)
    assert local_copy(URL).read_bytes() == BODY[::-1], "nothing of the first version is left"


def test_one_that_is_removed_meanwhile_is_told(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "cat_file", [None, FileNotFoundError("x")])
    with pytest.raises(RunError, match="was removed while it was read"):
        local_copy(URL)


def test_what_no_other_try_changes_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"memory://bucket/none\.tsv: no such file"):
        local_copy("memory://bucket/none.tsv")
    with pytest.raises(InputError, match="memory://bucket/in: no such file"):
        local_copy("memory://bucket/in")
    failing(monkeypatch, "info", [PermissionError("Forbidden")])
    with pytest.raises(InputError, match=r"cannot be used \(Forbidden\); .*environment: MEMORY_KEY"):
        local_copy(URL)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/a.tsv", r"s3://bucket/a\.tsv: needs s3fs, which is not installed; pip install s3fs"),
        ("gs://bucket/a.tsv", "pip install gcsfs"),
        ("abfs://box@account/a.tsv", "abfs://box@account/a.tsv: needs adlfs"),
        ("ftp://host/a.tsv", r"ftp://host/a\.tsv: a kind of URL that is not read; expected s3://, "),
        ("s3://bucket/", "s3://bucket/: has no file name"),
        ("s3://key:secret@bucket/a.tsv", r"s3://bucket/a\.tsv: a user, a password or a query .*: AWS_ACCESS_KEY_ID"),
    ],
)
def test_other_urls_are_refused_before_the_start(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = object_store.importlib.import_module

    def without(name: str) -> Any:
        if name in ("s3fs", "gcsfs", "adlfs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(object_store.importlib, "import_module", without)
    for use in (remote_file, lambda name: check_name(name, "dataset"), resolve_data):
        with pytest.raises(InputError, match=message) as raised:
            use(url)
        assert "secret" not in str(raised.value)


def test_a_member_of_an_archive_and_the_shown_name() -> None:
    assert resolve_data(URL) == str(local_copy(URL))
    assert resolve_data(f"{URL}#dev") == f"{local_copy(URL)}#dev"
    assert shown_name("https://me:pw@host/a.zip?sig=1#dev") == "https://host/a.zip"
    assert shown_name("a.zip#dev") is None


def test_a_file_is_put_whole_or_not_at_all(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "out.tsv"
    local.write_bytes(BODY)
    failing(monkeypatch, "put_file", [OSError("reset"), TimeoutError()])
    assert StoredFile("memory://b/out.tsv").put(local).size == len(BODY)
    assert store.cat_file("memory://b/out.tsv") == BODY
    failing(monkeypatch, "put_file", [OSError("503")] * 5)
    with pytest.raises(RunError, match=r"memory://b/other\.tsv: the store fails: 503"):
        StoredFile("memory://b/other.tsv").put(local)
    failing(monkeypatch, "put_file", [True] * 5)  # a store that says it has it, and has not
    with pytest.raises(RunError, match=f"None bytes are there, expected {len(BODY)}"):
        StoredFile("memory://b/other.tsv").put(local)


# Web servers


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def test_a_web_server_that_breaks_off_gives_the_whole_file(server: StandIn) -> None:
    server.files["/a.tsv"] = hosted = Hosted(BODY, cut_after=[500_000, 100_000], status=[503, 503], reset=True)
    url = server.url("/a.tsv?token=secret")
    assert local_copy(url).read_bytes() == BODY
    before = len(server.requests)
    assert local_copy(url).read_bytes() == BODY
    assert [request.method for request in server.requests[before:]] == ["HEAD"], "the copy has the same version"
    hosted.body, hosted.etag = b"new", '"two"'
    assert local_copy(url).read_bytes() == b"new"


def test_a_web_server_without_versions_is_asked_again(server: StandIn) -> None:
    server.files["/a.tsv"] = hosted = Hosted(b"one", etag=None)
    assert local_copy(server.url("/a.tsv")).read_bytes() == b"one"
    hosted.body = b"two"
    assert local_copy(server.url("/a.tsv")).read_bytes() == b"two"


def test_errors_of_a_web_server(server: StandIn) -> None:
    server.files["/no.tsv"] = Hosted(BODY, login=("me", "pw"))
    server.files["/busy.tsv"] = Hosted(BODY, always=503)
    with pytest.raises(InputError, match=r"/none\.tsv: no such file"):
        local_copy(server.url("/none.tsv"))
    with pytest.raises(InputError, match=r"/no\.tsv: cannot be read: HTTP 401") as raised:
        local_copy(server.url("/no.tsv?sig=secret"))
    assert "secret" not in str(raised.value)
    with pytest.raises(RunError, match=r"/busy\.tsv: cannot be read: HTTP 503"):
        local_copy(server.url("/busy.tsv"))
    assert local_copy(server.url("/no.tsv").replace("//", "//me:pw@")).read_bytes() == BODY
