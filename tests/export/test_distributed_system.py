"""`bertnli score --ray` on a real Ray cluster of two nodes on this machine, whose processes are killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from bertnli_export.run_record import record_path
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.window_scores import Windows

from bertnli.common.gpus import find_gpus
from tests.conftest import SOURCES, environment
from tests.support import tiny
from tests.support.ray_nodes import RAY_ENVIRONMENT, Node, ask_for_the_middle, cluster, in_the_middle
from tests.support.scored_files import read, write

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SMALL, BIG = 2_000, 6_000  # rows; the big ones have several chunks, and more than 512 KiB
NAMES = ("big.parquet", "big.csv", "big.jsonl", "nested/small.tsv", "small.csv", "small.parquet")

Join = Callable[..., Node]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of the first node."""
    with cluster("first") as address:
        yield address


@pytest.fixture
def join(head) -> Iterator[Join]:
    """Starts a second node."""
    nodes: list[Node] = []

    def start(hidden: Path | None = None, **environment_: str) -> Node:
        nodes.append(Node("second", "--address", head, hidden=hidden, environment_=environment_))
        return nodes[-1]

    yield start
    for node in nodes:
        node.end()


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Partitions in four formats, two folders and two sizes, a bad row in each."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "in" / "nested").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        rows = tiny.snli_rows(SMALL, seed=seed) * (BIG // SMALL if "big" in name else 1)
        rows[7] = rows[7] | {"sentence2": ""}
        write(folder / "in" / name, rows)
    scorer = Scorer(tiny.bundle(), "cpu", 1)
    (folder / "alone" / "nested").mkdir(parents=True)
    for name in NAMES:
        score_file(scorer, folder / "in" / name, folder / "alone" / name)
    return folder


def score(folder: Path, output: Path, address: str, *options: str, code: int = 0) -> Any:
    """The summary; or what is on standard error, if the command is expected to fail with `code`."""
    process = start(folder, output, address, *options)
    out, said = process.communicate(timeout=400)
    assert process.returncode == code, said
    assert "Traceback" not in said
    return json.loads(out.splitlines()[-1]) if code == 0 else said


_commands: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End the commands that a test leaves."""
    yield
    while _commands:
        _commands[-1].kill()
        _commands.pop().wait()


def start(folder: Path, output: Path, address: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bertnli.cli", "score", tiny.bundle(), folder, output, "--ray", address, "--json"]
    command += ["--device", "cpu", *options]
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment(**RAY_ENVIRONMENT),
        cwd=output.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _commands.append(process)
    return process


def check_like_alone(parts: Path, output: Path) -> None:
    for name in NAMES:
        assert (output / name).read_bytes() == (parts / "alone" / name).read_bytes(), name
    assert not list(output.rglob("*.partial*"))
    assert not list(output.rglob("_bertnli*"))


def record(partition: Path) -> dict[str, Any]:
    return dict(json.loads(record_path(partition).read_text()))


def test_two_nodes_write_what_one_machine_writes(parts, tmp_path, head, join) -> None:
    ask_for_the_middle(tmp_path / "out", join())  # the first node does not finish all before the second one starts
    driver = start(parts / "in", tmp_path / "out", head)
    in_the_middle(tmp_path / "out", driver).go_on()
    out, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    summary = json.loads(out.splitlines()[-1])
    check_like_alone(parts, tmp_path / "out")
    assert (summary["partitions"], summary["nodes"], summary["errors"]) == (6, 2, 6)
    assert summary["rows"] == 3 * BIG + 3 * SMALL
    assert summary["already_finished"] is False
    assert summary["pairs_per_second"] > 0 < summary["load_seconds"]
    assert summary["output"] == str(tmp_path / "out")
    rows = [row for name in NAMES for row in read(tmp_path / "out" / name)]
    labelled = [row for row in rows if row["gold_label"] in tiny.SNLI_LABELS and not row["error"]]
    right = sum(row["gold_label"] == row["prediction"] for row in labelled)
    assert (summary["labelled"], summary["accuracy"]) == (len(labelled), right / len(labelled))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = score(parts / "in", tmp_path / "out", head)
    assert again["already_finished"] and again["rows"] == summary["rows"]
    changed = {path for path in (tmp_path / "out").rglob("*") if path.stat().st_mtime_ns != before.get(path)}
    assert not [path for path in changed if path.is_file()]

    said = score(parts / "in", tmp_path / "out", head, "--prefix", "x_", code=2)
    assert said.count("options: prefix was , is x_") == 5 and "and 1 more" in said and "on node " in said
    assert score(parts / "in", tmp_path / "out", head, "--prefix", "x_", "--restart")["rows"] == summary["rows"]
    # a reader of the folder sees the partitions and nothing else
    score(parts / "in" / "*.parquet", tmp_path / "parquet", head)
    table = pyarrow.dataset.dataset(tmp_path / "parquet", format="parquet").to_table()
    assert table.num_rows == BIG + SMALL and "prediction" in table.column_names


def test_a_killed_worker_changes_nothing(parts, tmp_path, head, join) -> None:
    join()
    output = tmp_path / "out"
    ask_for_the_middle(output)
    driver = start(parts / "in", output, head)
    pid, partition = in_the_middle(output, driver)
    rows = record(partition)["counts"]["rows"]
    os.kill(pid, signal.SIGKILL)
    out, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["rows"] == 3 * BIG + 3 * SMALL
    assert record(partition)["summary"]["resumed_at"] == rows > 0
    check_like_alone(parts, output)


def test_a_killed_node_changes_nothing(parts, tmp_path, head, join) -> None:
    second = join()
    output = tmp_path / "out"
    ask_for_the_middle(output, second)
    driver = start(parts / "in", output, head)
    stopped = in_the_middle(output, driver)
    second.raylet.kill()
    stopped.go_on()
    out, said = driver.communicate(timeout=500)
    assert driver.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["rows"] == 3 * BIG + 3 * SMALL
    check_like_alone(parts, output)


def test_a_head_that_dies_is_named(parts, tmp_path) -> None:
    output = tmp_path / "out"
    ask_for_the_middle(output)
    with cluster("alone") as address:
        driver = start(parts / "in", output, address)
        in_the_middle(output, driver)
    _, said = driver.communicate(timeout=50)  # Ray's own patience is 60 seconds
    assert driver.returncode == 1
    assert f"--ray {address}: the cluster's head no longer answers" in said
    assert "give the same command again, without --restart: what is done is kept" in said
    with cluster("alone") as address:
        assert score(parts / "in", output, address)["rows"] == 3 * BIG + 3 * SMALL
    check_like_alone(parts, output)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_command_goes_on(parts, tmp_path, head, join, number) -> None:
    join()
    output = tmp_path / "out"
    ask_for_the_middle(output)
    driver = start(parts / "in", output, head)
    stopped = in_the_middle(output, driver)
    driver.send_signal(number)
    stopped.go_on()
    _, said = driver.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert driver.returncode == 143, said
        assert "of 6 partitions are finished; give the same command again, without --restart, to continue" in said
        assert "Traceback" not in said
    summary = score(parts / "in", output, head)  # at once, while workers of the first may still be there
    assert summary["rows"] == 3 * BIG + 3 * SMALL
    check_like_alone(parts, output)


def test_partitions_that_fail_are_named_and_the_others_finished(tmp_path, head, join) -> None:
    join()
    folder = tmp_path / "in"
    folder.mkdir()
    file = write(folder / "good.tsv", tiny.snli_rows(3000))
    (folder / "empty.csv").touch()
    said = score(folder, tmp_path / "out", head, code=2)
    assert "1 of 2 partitions failed: " in said and "empty.csv on node " in said and "the file is empty" in said
    assert len(read(tmp_path / "out" / "good.tsv")) == 3000
    packed = gzip.compress(file.read_bytes())
    (folder / "cut.tsv.gz").write_bytes(packed[: len(packed) // 2])
    said = score(folder, tmp_path / "out", head, code=1)
    assert (
        "2 of 3 partitions failed: " in said and "cut.tsv.gz on node " in said and "cannot be read beyond row" in said
    )
    (folder / "empty.csv").unlink()
    (folder / "cut.tsv.gz").write_bytes(packed)
    assert score(folder, tmp_path / "out", head)["rows"] == 6000


def test_strict_stops_at_a_bad_row(parts, tmp_path, head) -> None:
    said = score(parts / "in" / "nested", tmp_path / "out", head, "--strict", code=2)
    assert "small.tsv on node first" in said and "row 8: empty hypothesis" in said and "--strict" in said
    assert not (tmp_path / "out" / "small.tsv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system takes root")
def test_a_full_disk_is_one_message_and_gone_on_with(parts, tmp_path, head) -> None:
    output = tmp_path / "out"
    output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", output], check=True)
    try:
        said = score(parts / "in" / "big.csv", output, head, code=1)
        assert "big.csv on node first" in said and "No space left on device" in said and "make room there" in said
        subprocess.run(["mount", "-o", "remount,size=100m", output], check=True)
        assert score(parts / "in" / "big.csv", output, head)["rows"] == BIG
        assert (output / "big.csv").read_bytes() == (parts / "alone" / "big.csv").read_bytes()
    finally:
        subprocess.run(["umount", output], check=True)


def test_a_partition_that_kills_its_workers_is_given_up_and_the_others_finished(tmp_path) -> None:
    hook = "import os, sys\nsys.addaudithook(lambda event, of: event == 'open' and str(of[0]).endswith('/poison.tsv')"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"{hook} and os.kill(os.getpid(), 9))\n")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.tsv", "b.tsv", "poison.tsv"):
        write(folder / name, tiny.snli_rows(3000 if name == "poison.tsv" else 2000))
    with cluster("alone", PYTHONPATH=f"{SOURCES}:{tmp_path / 'site'}") as address:
        said = score(folder, tmp_path / "out", address, code=1)
    assert (
        "1 of 3 partitions failed: " in said
        and "poison.tsv on node alone" in said
        and "5 workers died while they scored it" in said
    )
    assert len(read(tmp_path / "out" / "a.tsv")) == len(read(tmp_path / "out" / "b.tsv")) == 2000


def test_a_node_with_other_versions_is_named_before_anything_starts(parts, tmp_path, head, join) -> None:
    info = tmp_path / "site" / "tokenizers-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenizers\nVersion: 9.9\n")
    join(PYTHONPATH=f"{tmp_path / 'site'}:{SOURCES}")
    said = score(parts / "in", tmp_path / "out", head, code=2)
    assert "a node cannot take part: node second" in said and "package tokenizers; found 9.9; expected 0." in said
    assert "node first" not in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="storage that a node does not see takes root")
@pytest.mark.parametrize(
    ("hidden", "said"), [("in", "does not see the input"), ("out", "does not see the output folder")]
)
def test_a_node_that_does_not_see_the_storage_is_named(tmp_path, head, join, hidden, said) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    write(tmp_path / "in" / "a.tsv", tiny.snli_rows(20))
    join(hidden=tmp_path / hidden)
    assert f"node second ({socket.gethostname()}): {said} {tmp_path / hidden}" in score(
        tmp_path / "in", tmp_path / "out", head, code=2
    )


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "bertnli_export.ray_job":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_a_node_without_bertnli_is_named(parts, tmp_path, head, join) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    join(PYTHONPATH=f"{tmp_path}:{SOURCES}")
    said = score(parts / "in", tmp_path / "out", head, code=2)
    assert "a node cannot take part: node second" in said and "No module named 'bertnli_export.ray_job'" in said


def test_a_gpu_that_cannot_be_used_is_an_error_and_not_the_cpu(parts, tmp_path, monkeypatch) -> None:
    """`auto` takes the GPUs that the cluster says it has."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # otherwise hidden from the tests
    with cluster("alone", "--num-gpus", "1") as address:
        if find_gpus().count:
            assert score(parts / "in" / "small.csv", tmp_path / "out", address, "--device", "auto")["device"] == "cuda"
        else:
            said = score(parts / "in" / "small.csv", tmp_path / "out", address, "--device", "auto", code=2)
            assert "small.csv on node alone" in said and "no NVIDIA GPU that this process may use" in said


def test_a_cluster_of_its_own_and_windows(parts, tmp_path) -> None:
    options = ["--windows", "premise", "--stride", "4", "--over", "mean"]
    summary = score(parts / "in" / "small.*", tmp_path / "out", "local", *options)
    assert (summary["rows"], summary["nodes"]) == (2 * SMALL, 1)
    source, alone = parts / "in" / "small.csv", tmp_path / "alone.csv"
    score_file(Scorer(tiny.bundle(), "cpu", 1), source, alone, expansion=Windows(4, "mean"))
    assert (tmp_path / "out" / "small.csv").read_bytes() == alone.read_bytes()
