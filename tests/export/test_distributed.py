"""Folders of partitions, and what a worker does with one: what can be tested without a cluster."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset
import pytest
from bertnli_export import distributed, ray_cluster
from bertnli_export.bundle import Bundle
from bertnli_export.devices import CPU
from bertnli_export.distributed import (
    Partition,
    _Attempts,
    _Job,
    _PartitionWorker,
    _raise_failures,
    _Result,
    find_partitions,
)
from bertnli_export.manifest import versions
from bertnli_export.output_file import partial_path
from bertnli_export.score import VERSIONS, score_file
from bertnli_export.scoring_setup import prepare

from bertnli import cli
from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from tests.support import tiny
from tests.support.bundles import with_outputs
from tests.support.scored_files import Stop, stop_after, write

OPTIONS = {"strict": False, "restart": False, "columns": None, "prefix": ""}


@pytest.fixture
def parts(tmp_path) -> Path:
    """A folder of partitions in several formats, and of files that are not partitions."""
    for name in ("a.tsv", "b.csv.gz", "year=2024/a.parquet", "_SUCCESS", ".a.tsv.crc", "_old/a.tsv"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * (9 if name == "b.csv.gz" else 1))
    return tmp_path / "in"


def job(**changes) -> _Job:
    bundle = Bundle.open(tiny.bundle())
    return replace(_Job(str(bundle.path), bundle.sha256, versions(VERSIONS), CPU, 1, None, None, OPTIONS), **changes)


# --- which partitions


def test_a_folder_is_its_files_the_largest_first(parts, tmp_path) -> None:
    found = find_partitions(parts, tmp_path / "out")
    assert found == [
        Partition(parts / name, tmp_path / "out" / name) for name in ("b.csv.gz", "a.tsv", "year=2024/a.parquet")
    ]


def test_a_glob_keeps_the_folders_behind_its_first_wildcard(parts, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {partition.output.relative_to(tmp_path) for partition in find_partitions("in/*/*.parquet", "out")}
    assert names == {Path("out/year=2024/a.parquet")}
    assert [partition.output.name for partition in find_partitions("in/[a].tsv", "out")] == ["a.tsv"]
    assert [partition.output for partition in find_partitions("in/a.tsv", "out")] == [tmp_path / "out" / "a.tsv"]


def test_links_to_folders_and_wildcards_in_names_are_followed(parts, tmp_path) -> None:
    (tmp_path / "in[1]").mkdir()
    (tmp_path / "in[1]" / "linked").symlink_to(parts)
    found = find_partitions(tmp_path / "in[1]", tmp_path / "out")
    assert [partition.output for partition in found][:1] == [tmp_path / "out" / "linked" / "b.csv.gz"]
    assert len(found) == 3


def test_a_file_that_is_not_read_is_named_and_not_passed_over(parts, tmp_path) -> None:
    (parts / "c.orc").write_text("x")
    with pytest.raises(InputError, match=r"c\.orc: unknown format; .* exclude it with a glob"):
        find_partitions(parts, tmp_path / "out")
    assert len(find_partitions(parts / "*.tsv", tmp_path / "out")) == 1


def test_scores_of_arrow_are_parquet_and_take_the_place_of_no_other(parts, tmp_path) -> None:
    (parts / "year=2024" / "b.arrow").write_text("x")
    assert [partition.output.name for partition in find_partitions(parts / "*" / "b*", tmp_path / "out")] == [
        "b.parquet"
    ]
    (parts / "year=2024" / "a.feather").write_text("x")
    with pytest.raises(InputError, match=r"has the same output as .*; give one of them another name"):
        find_partitions(parts, tmp_path / "out")


@pytest.mark.parametrize(("input", "output"), [("s3://b/in", "out"), ("in", "s3://b/out")])
def test_urls_are_refused_and_no_local_folder_of_that_name_is_made(input, output) -> None:
    with pytest.raises(InputError, match=r"s3://b/\w+: a URL with --ray; expected a folder that every node sees"):
        find_partitions(input, output)


@pytest.mark.parametrize("input", ["none", "empty", "none/*.tsv", "in/*.jsonl"])
def test_no_partitions_are_an_error(parts, tmp_path, monkeypatch, input) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{input}: no partition files".replace("*", r"\*")):
        find_partitions(input, "out")


@pytest.mark.parametrize(("input", "output"), [("in", "in"), ("in", "in/out"), ("in/*.tsv", "in")])
def test_an_output_in_the_input_would_be_scored_the_next_time(parts, tmp_path, monkeypatch, input, output) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{output}: is inside the input"):
        find_partitions(input, output)


def test_rows_of_a_partition_that_is_gone_do_not_stay_in_the_output(parts, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.tsv", "_a.tsv.run.json", "a.tsv.partial", "year.parquet.partial.parquet", "notes.md"):
        (out / name).write_text("x")
    assert len(find_partitions(parts, out)) == 3
    (out / "gone.csv").write_text("x")
    with pytest.raises(InputError, match=r"gone\.csv: no partition of the input has this output"):
        find_partitions(parts, out)


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
    job().check_bundle(Bundle.open(tiny.bundle()))
    with pytest.raises(InputError, match=r"package numpy; found [\d.]+; expected 0\.1, as on the host of the command"):
        job(versions=versions(VERSIONS) | {"numpy": "0.1"}).check_versions()
    with pytest.raises(InputError, match=r"package extra; found none; expected 1"):
        job(versions=versions(VERSIONS) | {"extra": "1"}).check_versions()
    with pytest.raises(InputError, match="not the same bundle as on the host of the command"):
        job(sha256="0" * 64).check_bundle(Bundle.open(tiny.bundle()))
    with pytest.raises(InputError, match="not a bundle"):
        _PartitionWorker(job(bundle=str(tmp_path)), None)._score("in.tsv", "out.tsv")


# --- what is told


def test_failures_are_one_error_with_the_worst_exit_code(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "name_of", lambda node: f"node {node}")
    partitions = [Partition(Path(f"p{number}"), Path(f"o{number}")) for number in range(8)]
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
