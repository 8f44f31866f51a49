"""What a worker does with a partition, and what is told: what can be tested without a cluster."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from bertnli_export import distributed, ray_cluster
from bertnli_export.bundle import Bundle
from bertnli_export.devices import CPU
from bertnli_export.distributed import (
    Partition,
    _Attempts,
    _PartitionWorker,
    _raise_failures,
    _Result,
    find_partitions,
)
from bertnli_export.manifest import versions
from bertnli_export.output_file import partial_path
from bertnli_export.ray_job import Job
from bertnli_export.score import VERSIONS, score_file
from bertnli_export.scoring_setup import prepare

from bertnli import cli
from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from tests.data.test_arrow_ipc import save_to_disk
from tests.support import tiny
from tests.support.bundles import with_outputs
from tests.support.scored_files import Stop, stop_after, write

OPTIONS = {"strict": False, "restart": False, "columns": None, "prefix": ""}


def job(**changes) -> Job:
    bundle = Bundle.open(tiny.bundle())
    return replace(Job(str(bundle.path), bundle.sha256, versions(VERSIONS), CPU, 1, None, None, OPTIONS), **changes)


# --- what a worker does


def test_a_worker_loads_once_and_writes_what_score_file_writes(tmp_path, monkeypatch) -> None:
    loaded = []

    def load(*arguments, **options):
        loaded.append(prepare(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(distributed, "prepare", load)
    worker = _PartitionWorker(job(), None)
    (tmp_path / "out").mkdir()
    for seed in range(2):
        file = write(tmp_path / f"{seed}.parquet", tiny.snli_rows(50, seed=seed))
        summary = worker._score(str(file), str(tmp_path / "out" / file.name))
        assert (summary["rows"], summary["load_seconds"] > 0) == (50, seed == 0)
        score_file(tiny.bundle(), file, tmp_path / "alone.parquet", device="cpu", restart=True)
        assert (tmp_path / "out" / file.name).read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    assert len(loaded) == 1
    # the records beside the outputs do not get in the way of those who read the folder
    assert pyarrow.dataset.dataset(tmp_path / "out", format="parquet").count_rows() == 100


def test_a_folder_of_save_to_disk_is_scored_as_one_partition(tmp_path) -> None:
    file = write(tmp_path / "alone.parquet", tiny.snli_rows(50))
    (tmp_path / "in").mkdir()
    save_to_disk(tmp_path / "in" / "saved", pq.read_table(file))
    [partition] = find_partitions(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert _PartitionWorker(job(), None)._score(*partition)["rows"] == 50
    score_file(tiny.bundle(), file, tmp_path / "scores.parquet", device="cpu")
    assert pq.read_table(tmp_path / "out" / "saved.parquet").equals(pq.read_table(tmp_path / "scores.parquet"))


def test_a_worker_has_the_threshold_of_the_command(tmp_path) -> None:
    bundle = with_outputs(tmp_path / "bundle", Outputs(("a", "b", "c"), "multi_label_classification", "sigmoid"))
    file, output = write(tmp_path / "in.jsonl", tiny.snli_rows(50)), tmp_path / "out.jsonl"
    of_job = {"bundle": str(bundle), "sha256": Bundle.open(bundle).sha256, "threshold": 0.6}
    _PartitionWorker(job(**of_job), None)._score(str(file), str(output))
    for threshold in (0.6, 0.5):
        alone = tmp_path / f"{threshold}.jsonl"
        score_file(bundle, file, alone, device="cpu", threshold=threshold)
        assert (output.read_bytes() == alone.read_bytes()) == (threshold == 0.6)


class Beside:
    """A handle of an actor that is in this process, for a `ray.get` that gives back what it is given."""

    def __init__(self, actor: object):
        self._actor = actor

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._actor, name))


def test_a_restart_throws_away_what_was_there_and_not_what_a_dead_worker_did(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.get", lambda answer: answer)
    file, output = write(tmp_path / "in.tsv", tiny.snli_rows(3000)), tmp_path / "out.tsv"
    score_file(tiny.bundle(), file, output, device="cpu")
    tries = Beside(_Attempts())

    def dies(*arguments, progress, **options):
        def then_die(rows, note):
            progress(rows, note)
            if rows > 2000:
                raise Stop

        return score_file(*arguments, progress=then_die, checkpoint_seconds=0, **options)

    restart = job(options={**OPTIONS, "restart": True})
    with monkeypatch.context() as context:
        context.setattr(distributed, "score_file", dies)
        with pytest.raises(Stop):
            _PartitionWorker(restart, tries)._score(str(file), str(output))
    summary = _PartitionWorker(restart, tries)._score(str(file), str(output))
    assert (summary["already_finished"], summary["resumed_at"]) == (False, 1024)
    summary = _PartitionWorker(restart, Beside(_Attempts()))._score(str(file), str(output))  # the next run's
    assert (summary["already_finished"], summary["resumed_at"]) == (False, 0)


def test_a_worker_waits_for_one_that_still_holds_the_partition(tmp_path, monkeypatch) -> None:
    """As after the driver died, or if a node is taken for dead that is not."""
    file = write(tmp_path / "in.tsv", tiny.snli_rows(50))
    output = tmp_path / "out.tsv"
    holder = partial_path(output).open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    monkeypatch.setattr(distributed, "BUSY_SECONDS", 0.0)
    with pytest.raises(InputError, match="another process is writing it"):
        _PartitionWorker(job(), None)._score(str(file), str(output))
    monkeypatch.setattr(distributed, "BUSY_SECONDS", 60.0)
    threading.Timer(0.5, holder.close).start()
    assert _PartitionWorker(job(), None)._score(str(file), str(output))["rows"] == 50


def test_an_output_finished_between_the_look_and_the_lock_is_taken_as_it_is(tmp_path, monkeypatch) -> None:
    from bertnli_export import score as score_module

    file, output = write(tmp_path / "in.tsv", tiny.snli_rows(3000)), tmp_path / "out.tsv"
    with pytest.raises(Stop):
        score_file(tiny.bundle(), file, output, device="cpu", checkpoint_seconds=0, progress=stop_after(2))
    real, calls = score_module.open_writer, []

    def other_finishes_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            score_file(tiny.bundle(), file, output, device="cpu")
        return real(*arguments, **options)

    monkeypatch.setattr(score_module, "open_writer", other_finishes_first)
    assert _PartitionWorker(job(), None)._score(str(file), str(output))["already_finished"]


def test_a_node_with_other_versions_or_another_bundle_is_refused(tmp_path) -> None:
    job().check_versions()
    job().check_bundle(Bundle.open(tiny.bundle()).sha256)
    with pytest.raises(InputError, match=r"package numpy; found [\d.]+; expected 0\.1, as on the host of the command"):
        job(versions=versions(VERSIONS) | {"numpy": "0.1"}).check_versions()
    with pytest.raises(InputError, match=r"package extra; found none; expected 1"):
        job(versions=versions(VERSIONS) | {"extra": "1"}).check_versions()
    with pytest.raises(InputError, match="not the same bundle as on the host of the command"):
        job(sha256="0" * 64).check_bundle(Bundle.open(tiny.bundle()).sha256)
    with pytest.raises(InputError, match="not a bundle"):
        _PartitionWorker(job(bundle=str(tmp_path)), None)._score("in.tsv", "out.tsv")


# --- what is told


def test_failures_are_one_error_with_the_worst_exit_code(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "name_of", lambda node: f"node {node}")
    partitions = [Partition(f"p{number}", f"o{number}") for number in range(8)]
    fine = {f"p{number}": _Result(f"p{number}", "n", {}, "", 0) for number in range(8)}
    _raise_failures(fine, partitions)
    wrong = fine | {"p1": _Result("p1", "n", {}, "the file is empty", 2)}
    with pytest.raises(InputError, match=r"^1 of 8 partitions failed: p1 on node n: the file is empty; what is done"):
        _raise_failures(wrong, partitions)
    with pytest.raises(RunError, match=r"^2 of 8 .*p1 on node n: the file.*; p2 on node n: disk full"):
        _raise_failures(wrong | {"p2": _Result("p2", "n", {}, "disk full", 1)}, partitions)
    all_full = {name: result._replace(error="disk full", exit_code=1) for name, result in fine.items()}
    with pytest.raises(RunError, match=r"^8 of 8 .*p4 on node n: disk full; and 3 more; what is done"):
        _raise_failures(all_full, partitions)
    with pytest.raises(RuntimeError, match="Traceback"):
        _raise_failures({"p1": _Result("p1", "n", {}, "Traceback", 0)}, partitions)


@pytest.mark.parametrize(
    ("nodes", "partitions", "cores"),
    [((4, 4), 100, 1), ((4, 4), 8, 1), ((4, 4), 3, 2), ((4, 4), 1, 4), ((4, 2), 1, 2), ((1,), 1, 1)],
)
def test_few_partitions_have_several_cores_each(nodes, partitions, cores) -> None:
    described = [{"Resources": {"CPU": float(count)}} for count in nodes]
    assert ray_cluster.cores_each(described, partitions) == cores


# --- no cluster


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else real(name))
    with pytest.raises(InputError, match=r"needs ray.*pip install 'bertnli\[ray\]'"):
        cli.app(["score", str(tiny.bundle()), str(tmp_path), str(tmp_path / "out"), "--ray", "local"])


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:x", "nohost.invalid:6379", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_one_message(tmp_path, address) -> None:
    partitions = find_partitions(write(tmp_path / "in.tsv", tiny.snli_rows(3)), tmp_path / "out")
    with pytest.raises(InputError, match=f"^--ray {re.escape(address)}: [^\n]*$"):
        distributed.score_partitions(tiny.bundle(), partitions, tmp_path / "out", address)
    assert not (tmp_path / "out").exists()


def test_a_port_nobody_listens_on_is_known_at_once(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(ray_cluster.subprocess, "run", lambda *_, **__: pytest.fail("Ray is asked, which takes long"))
    with pytest.raises(InputError, match=rf"--ray 127\.0\.0\.1:{port}: no cluster answers.*refused"):
        ray_cluster._probe(f"127.0.0.1:{port}")


def test_a_port_that_never_answers_does_not_hang(monkeypatch) -> None:
    """`ray.init` would wait two minutes and more for this one."""
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: no cluster answers; found no answer in 2 seconds"):
            ray_cluster._probe(f"127.0.0.1:{port}")


def test_the_device_is_one_of_ours_and_the_bundle_is_whole(tmp_path) -> None:
    write(tmp_path / "in.tsv", tiny.snli_rows(3))
    partitions = find_partitions(tmp_path / "in.tsv", tmp_path / "out")
    with pytest.raises(InputError, match="--device; found 'tpu'"):
        distributed.score_partitions(tiny.bundle(), partitions, tmp_path / "out", "local", device="tpu")
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    with (bundle / "model.onnx").open("r+b") as model:
        model.seek(-100, os.SEEK_END)
        model.write(b"\0")
    with pytest.raises(InputError, match=r"model\.onnx: not the file that was exported"):
        distributed.score_partitions(bundle, partitions, tmp_path / "out", "local")
