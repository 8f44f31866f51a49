"""`bertnli score --ray` with URLs: what a worker does with a partition elsewhere, and what a node checks."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertnli_export import distributed, ray_job
from bertnli_export.distributed import _Attempts, _PartitionWorker, score_partitions
from bertnli_export.partitions import Partition, find_partitions
from bertnli_export.ray_job import _node_problem, _probe
from bertnli_export.score import score_file

from bertnli.common.errors import InputError
from bertnli.common.locks import Lock
from bertnli.fetch import object_store, remote_files
from tests.export.test_distributed import OPTIONS, Beside, job
from tests.support import tiny
from tests.support.memory_store import failing, memory_store
from tests.support.scored_files import CHUNK, Stop, write

BUNDLE, INPUT, OUTPUT = "memory://bucket/nli", "memory://bucket/in/a.tsv", "memory://bucket/out/a.tsv"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    with memory_store(monkeypatch) as files:
        files.pipe_file(INPUT, write(tmp_path / "a.tsv", tiny.snli_rows(4 * CHUNK)).read_bytes())
        for path in tiny.bundle().iterdir():
            files.pipe_file(f"{BUNDLE}/{path.name}", path.read_bytes())
        yield files


@pytest.fixture
def expected(tmp_path: Path) -> bytes:
    score_file(tiny.bundle(), tmp_path / "a.tsv", tmp_path / "scores.tsv", device="cpu")
    return (tmp_path / "scores.tsv").read_bytes()


def copies(tmp_path: Path) -> list[str]:
    """What is left of the inputs and the outputs on this machine."""
    found = [*tmp_path.glob("cache/remote/*/*"), *tmp_path.glob("cache/outputs/*/*")]
    return sorted(path.name for path in found if path.name in ("a.tsv", "a.tsv.partial", "_a.tsv.run.json"))


def test_a_worker_scores_a_url_to_a_url_and_keeps_no_copy(store: Any, tmp_path: Path, expected: bytes) -> None:
    worker = _PartitionWorker(job(bundle=BUNDLE), None)
    assert worker._score(INPUT, OUTPUT)["rows"] == 4 * CHUNK
    assert store.cat_file(OUTPUT) == expected
    assert copies(tmp_path) == []
    shutil.rmtree(tmp_path / "cache")  # another node, and the next command
    assert _PartitionWorker(job(bundle=BUNDLE), None)._score(INPUT, OUTPUT)["already_finished"]


def test_a_worker_scores_from_and_to_folders_too(store: Any, tmp_path: Path, expected: bytes) -> None:
    worker = _PartitionWorker(job(), None)
    worker._score(INPUT, str(tmp_path / "out.tsv"))
    worker._score(str(tmp_path / "a.tsv"), OUTPUT)
    assert (tmp_path / "out.tsv").read_bytes() == store.cat_file(OUTPUT) == expected
    assert (tmp_path / "a.tsv").exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_next_worker_goes_on_where_one_died(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool, elsewhere: bool
) -> None:
    """On the same node after its last checkpoint, on another one at the beginning. With --restart, neither takes the
    output that was there for its own."""
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.get", lambda answer: answer)
    attempts, work = Beside(_Attempts()), job(options={**OPTIONS, "restart": restart, "prefix": "x_"})
    if restart:
        _PartitionWorker(job(), None)._score(INPUT, OUTPUT)

    def dies(*arguments: Any, progress: Any = None, **options: Any) -> Any:
        def then_die(rows: int, note: str) -> None:
            if progress is not None:
                progress(rows, note)
            if rows > 2 * CHUNK:
                raise Stop

        return score_file(*arguments, progress=then_die, checkpoint_seconds=0, **options)

    with monkeypatch.context() as patch:
        patch.setattr(distributed, "score_file", dies)
        with pytest.raises(Stop):
            _PartitionWorker(work, attempts)._score(INPUT, OUTPUT)
    if elsewhere:
        shutil.rmtree(tmp_path / "cache")
    summary = _PartitionWorker(work, attempts)._score(INPUT, OUTPUT)
    assert (summary["already_finished"], summary["resumed_at"]) == (False, 0 if elsewhere else 2 * CHUNK)
    assert b"x_prediction" in store.cat_file(OUTPUT)
    assert copies(tmp_path) == []


def test_a_copy_that_another_process_reads_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(remote_files._folder(INPUT) / ".use.lock")
    lock.path.parent.mkdir(parents=True)
    lock.acquire("")
    monkeypatch.setattr(distributed, "BUSY_SECONDS", 0.0)
    with pytest.raises(InputError, match=f"{INPUT}: another process on this machine reads it"):
        _PartitionWorker(job(), None)._score(INPUT, OUTPUT)
    monkeypatch.setattr(distributed, "BUSY_SECONDS", 60.0)
    threading.Timer(0.3, lock.release).start()
    assert _PartitionWorker(job(), None)._score(INPUT, OUTPUT)["rows"] == 4 * CHUNK


def test_a_bundle_that_is_replaced_meanwhile_is_refused(store: Any) -> None:
    work = job(bundle=BUNDLE)
    manifest = store.cat_file(f"{BUNDLE}/manifest.json")
    store.pipe_file(f"{BUNDLE}/manifest.json", manifest + b"\n")
    with pytest.raises(InputError, match=f"{BUNDLE}: not the same bundle as on the host of the command"):
        _PartitionWorker(work, None)._score(INPUT, OUTPUT)
    assert "not the same bundle" in _node_problem(work, INPUT, "memory://bucket/out/_probe")


# --- what a node checks


@pytest.fixture
def probe() -> Iterator[str]:
    with _probe("memory://bucket/out/") as url:
        yield url


def test_a_node_that_sees_all_can_take_part(store: Any, tmp_path: Path) -> None:
    with _probe("memory://bucket/out") as url:
        assert _node_problem(job(bundle=BUNDLE), INPUT, url) == ""
        assert store.exists(url)
        assert not list(tmp_path.glob("cache/bundles/*")), "the bundle is copied when it is used, not within the check"
    assert not store.exists(url)
    assert _node_problem(job(), str(tmp_path / "a.tsv"), str(tmp_path / "a.tsv")) == ""


def test_a_node_that_does_not_see_a_url_is_told_what_it_needs(store: Any, probe: str) -> None:
    advice = "; give it the credentials and the endpoint that the host of the command has"
    none = "memory://bucket/none/a.tsv"
    assert _node_problem(job(), none, probe) == f"does not see the input {none}{advice}"
    store.rm_file(probe)
    assert _node_problem(job(), INPUT, probe) == f"does not see the output folder memory://bucket/out{advice}"


def test_a_node_without_the_package_or_the_rights_is_told(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "info", [PermissionError("Access Denied")])
        assert "in/a.tsv: cannot be used (Access Denied); check " in _node_problem(job(), INPUT, probe)
    with monkeypatch.context() as patch:
        failing(patch, "pipe_file", [PermissionError("Access Denied")])
        assert f"{probe}: cannot be used (Access Denied); check " in _node_problem(job(), INPUT, probe)
    real = object_store.importlib.import_module

    def without(name: str) -> Any:
        if name == "s3fs":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(object_store.importlib, "import_module", without)
    assert _node_problem(job(), "s3://bucket/a.tsv", probe) == (
        "s3://bucket/a.tsv: needs s3fs, which is not installed; pip install s3fs"
    )


def test_a_probe_that_may_not_be_removed_is_said_and_stops_nothing(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "rm_file", [PermissionError("Access Denied")])
    with _probe("memory://bucket/out"):
        pass
    assert "an empty file stays there: memory://bucket/out/_bertnli-" in capsys.readouterr().err
    assert len(find_partitions("memory://bucket/in", "memory://bucket/out")) == 1


# --- the host of the command


def test_a_bundles_url_is_checked_before_any_node_is_asked(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "connected", lambda address: pytest.fail("too late"))
    partitions = [Partition(INPUT, OUTPUT)]
    with pytest.raises(InputError, match=r"bucket/none/manifest\.json: no such file"):
        score_partitions("memory://bucket/none", partitions, "memory://bucket/out", "local")
    with pytest.raises(InputError, match="a user, a password or a query in the URL of a bundle") as raised:
        score_partitions("https://me:secret@host/nli", partitions, "memory://bucket/out", "local")
    assert "secret" not in str(raised.value)
    store.pipe_file(f"{BUNDLE}/model.onnx", store.cat_file(f"{BUNDLE}/model.onnx")[:-1] + b"x")
    with pytest.raises(InputError, match=rf"{BUNDLE}/model\.onnx: not the file that was exported; found SHA-256"):
        score_partitions(BUNDLE, partitions, "memory://bucket/out", "local")


def test_nothing_is_made_here_for_an_output_elsewhere(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes are asked about the URLs, and no folder of such a name is made here."""
    from contextlib import nullcontext

    from bertnli_export.devices import CPU

    asked: list[tuple[Any, ...]] = []

    def check_nodes(nodes: Any, work: ray_job.Job, *places: str) -> None:
        asked.append((work.bundle, *places))
        raise InputError("enough")

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(distributed, "connected", lambda address: nullcontext())
    monkeypatch.setattr(distributed, "choose_nodes", lambda device, address: (CPU, [{"Resources": {"CPU": 1}}]))
    monkeypatch.setattr(distributed, "check_nodes", check_nodes)
    with pytest.raises(InputError, match="enough"):
        score_partitions(BUNDLE, [Partition(INPUT, OUTPUT)], "memory://bucket/out", "local")
    assert asked == [(BUNDLE, INPUT, "memory://bucket/out")]
    assert list(Path.cwd().iterdir()) == []
