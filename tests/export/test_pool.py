"""Worker processes: the same scores as from one process, whichever worker dies, and no process is left."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from bertnli_export import pool
from bertnli_export.codec import Codec, ScoredChunk
from bertnli_export.devices import CPU
from bertnli_export.pool import Pool
from bertnli_export.run_record import record_path
from bertnli_export.score import score_file
from bertnli_export.scorer import CHUNK, Scorer
from bertnli_export.scoring_setup import prepare
from bertnli_export.stages import InProcess
from bertnli_export.writer import open_writer

from bertnli.common.errors import InputError, RunError
from bertnli.data.pair_rows import RawChunk
from bertnli.data.pairs import PairFile
from tests.conftest import command_line, environment
from tests.support import tiny

ROWS = 8


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORKER", "tests.support.deadly_worker")


def task(number: int, *premises: str) -> RawChunk:
    """Chunk `number` of some file of JSON lines, every one with other lengths."""
    texts = list(premises) or [f"a dog {'runs ' * (number % 7)}{at}" for at in range(ROWS)]
    lines = [json.dumps({"premise": text, "hypothesis": "a man"}) + "\n" for text in texts]
    return RawChunk(number * ROWS + 1, len(lines), "".join(lines).encode())


@pytest.fixture
def codec(tmp_path) -> Codec:
    path = tmp_path / "some.jsonl"
    path.write_bytes(task(0).records)  # type: ignore[arg-type]
    file, outputs = PairFile(path), prepare(tiny.bundle(), CPU).bundle.outputs
    with open_writer(tmp_path / "none.jsonl", file, outputs) as writer:
        return Codec(file, outputs, writer.encoder)


def premises(scored: list[ScoredChunk]) -> list[list[str]]:
    return [[json.loads(line)["premise"] for line in each.data.splitlines()] for each in scored]


def asked(tasks: list[RawChunk]) -> list[list[str]]:
    return [[json.loads(line)["premise"] for line in each.records.splitlines()] for each in tasks]  # type: ignore


def open_pool(workers: int) -> Any:
    return closing(Pool(prepare(tiny.bundle(), CPU), [CPU] * workers))


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "worker" in " ".join(command_line(each))]


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_the_scores_are_those_of_one_process_in_order(codec) -> None:
    tasks = [task(number) for number in range(12)]
    expected = list(InProcess(Scorer(tiny.bundle(), "cpu")).score(iter(tasks), codec))
    with open_pool(3) as workers:
        found = list(workers.score(iter(tasks), codec))
        assert workers.description == "3 x CPU, 1 thread"
        assert workers.deaths == 0
    assert premises(found) == premises(expected) == asked(tasks)
    assert found == expected
    assert not children()


def test_a_workers_death_is_reported_and_its_tasks_are_done_by_another(obedient, codec, tmp_path, capfd) -> None:
    tasks = [task(0), task(1, f"once {tmp_path / 'died'}"), *(task(number) for number in range(2, 10))]
    with open_pool(2) as workers:
        found = list(workers.score(iter(tasks), codec))
        assert workers.deaths == 1
    assert premises(found) == asked(tasks)
    said = capfd.readouterr().err
    assert said.count("was killed by SIGKILL") == 1
    assert "(cpu)" in said
    assert "its rows go to another worker" in said


def test_a_task_that_kills_is_named_after_two_workers(obedient, codec) -> None:
    tasks = [task(0), task(1), task(2, "a", "die"), *(task(number) for number in range(3, 10))]
    done = []
    with (
        open_pool(3) as workers,
        pytest.raises(
            RunError, match=r"rows 17 to 18: 2 workers died while they scored them; found worker \d .cpu. was killed by"
        ),
    ):
        for each in workers.score(iter(tasks), codec):
            done.append(each)
    assert premises(done) == asked(tasks[: len(done)]) and len(done) <= 2
    assert workers.deaths == 2
    assert not children()


def test_rows_that_cannot_be_written_end_the_run_after_those_before_them(obedient, codec, tmp_path) -> None:
    """Worker 0 waits with the first task until worker 1 has the key that cannot be, and has ended."""
    wrong = RawChunk(9, 1, b'{"premise": "a", "hypothesis": "b", "error": 1}\n')
    tasks = [task(0, f"wait {tmp_path / 'go'}"), wrong, *(task(number) for number in range(2, 10))]
    done = []
    with open_pool(2) as workers:
        threading.Timer(0.3, (tmp_path / "go").touch).start()
        with pytest.raises(RunError, match=r"row 9: key 'error' has the name of a column that the output adds"):
            for each in workers.score(iter(tasks), codec):
                done.append(each)
        assert workers.deaths == 0
    assert premises(done) == asked(tasks[:1])
    assert not children()


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        ("die", r"worker 0 \(cpu\) was killed by SIGKILL .is memory short"),
        ("fail", r"worker 0 \(cpu\) CUDA failure 700: an illegal memory access"),
        ("crash", r"worker 0 \(cpu\) ended with exit code 1"),
    ],
)
def test_without_any_worker_the_last_ones_end_is_named(obedient, codec, order, cause) -> None:
    with open_pool(1) as workers, pytest.raises(RunError, match=f"all workers have died; found {cause}"):
        list(workers.score(iter([task(0), task(1, order)]), codec))


def test_what_a_worker_cannot_load_is_one_message(tmp_path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    setup = prepare(bundle, CPU)
    (bundle / "model.onnx").write_bytes(b"junk")  # since it was checked
    with pytest.raises(InputError, match=r"model\.onnx: not an ONNX graph"):
        Pool(setup, [CPU, CPU])
    assert not children()


def test_a_slow_task_holds_up_the_reader(obedient, codec, tmp_path) -> None:
    read = []

    def tasks() -> Iterator[RawChunk]:
        for number in range(30):
            read.append(number)
            if len(read) == most:
                # Time enough for a reader that is not held up to read more.
                threading.Timer(0.5, (tmp_path / "go").touch).start()
            yield task(number, f"wait {tmp_path / 'go'}") if number == 0 else task(number)

    most = 2 * 2 + 2  # two tasks for each worker, and two that wait
    with open_pool(2) as workers, closing(workers.score(tasks(), codec)) as found:
        assert not read  # nothing is read before the first result is asked for
        next(found)
        assert len(read) == most
        assert len(list(found)) == 29


def test_a_fault_of_the_input_comes_after_the_tasks_before_it(codec) -> None:
    def tasks() -> Iterator[RawChunk]:
        yield from map(task, range(5))
        raise RunError("row 41: torn")

    done = []
    with open_pool(2) as workers, pytest.raises(RunError, match="row 41: torn"):
        for each in workers.score(tasks(), codec):
            done.append(each)
    assert len(done) == 5


# --- the whole command


def rows_file(path: Path, rows: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(rows)))
    return path


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    code = "from bertnli_export.scorer import CHUNK; CHUNK['cpu'] = 64; from bertnli.cli import main; main()"
    command = [sys.executable, "-c", code, "score", str(tiny.bundle()), *map(str, arguments)]
    return subprocess.Popen(
        command, text=True, env=environment(), **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    )


def test_any_number_of_workers_goes_on_with_a_run_and_gives_the_same_bytes(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setitem(CHUNK, "cpu", 64)
    file = rows_file(tmp_path / "in.jsonl", 64 * 12 + 5)
    score_file(tiny.bundle(), file, tmp_path / "whole.jsonl", device="cpu")

    def kill_a_worker(rows: int, note: str) -> None:
        if rows == 5 * 64:
            children()[0].kill()

    def stop(rows: int, note: str) -> None:
        if rows == 4 * 64:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"device": "cpu", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        score_file(tiny.bundle(), file, tmp_path / "out.jsonl", workers=3, progress=stop, **options)
    assert not children()
    # From here with another number of workers, one of which dies.
    summary = score_file(tiny.bundle(), file, tmp_path / "out.jsonl", workers=2, progress=kill_a_worker, **options)
    assert (summary["resumed_at"], summary["worker_deaths"]) == (3 * 64, 1)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGINT, 1)]
)
def test_no_worker_outlives_the_command(tmp_path, number, workers) -> None:
    """The command waits for more input; it ends as the signal says."""
    child = start("-", tmp_path / "out.jsonl", "--format", "jsonl", "--workers", workers, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(rows_file(tmp_path / "in.jsonl", 64).read_text())
    child.stdin.flush()
    partial = tmp_path / "out.jsonl.partial"
    eventually(lambda: partial.exists() and partial.stat().st_size > 0)
    started = psutil.Process(child.pid).children()
    assert len(started) == (workers if workers > 1 else 0)
    child.send_signal(number)
    child.wait(timeout=60)  # with its input still open
    _, errors = child.communicate(timeout=60)
    assert child.returncode == (-9 if number == signal.SIGKILL else 128 + number), errors
    assert "Traceback" not in errors
    eventually(lambda: not any(each.is_running() and each.status() != "zombie" for each in started), 20)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_written_while_the_input_has_not_ended(tmp_path, workers) -> None:
    lines = rows_file(tmp_path / "in.jsonl", 4 * 64).read_text().splitlines(keepends=True)
    child = start("-", tmp_path / "out.jsonl", "--format", "jsonl", "--workers", workers, stdin=subprocess.PIPE)
    assert child.stdin is not None
    partial = tmp_path / "out.jsonl.partial"
    for chunk in range(4):
        child.stdin.write("".join(lines[chunk * 64 : (chunk + 1) * 64]))
        child.stdin.flush()
        eventually(lambda: partial.exists() and partial.read_bytes().count(b"\n") == (chunk + 1) * 64)  # noqa: B023
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4 * 64


def test_scores_that_are_no_numbers_are_the_reason_in_their_rows(obedient, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(CHUNK, "cpu", 64)
    lines = rows_file(tmp_path / "in.jsonl", 64 * 3).read_text().splitlines()
    lines[64 + 3] = json.dumps({"sentence1": "overflow", "sentence2": "a"})  # which its whole task does
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = {"device": "cpu", "workers": 2}
    summary = score_file(tiny.bundle(), tmp_path / "in.jsonl", tmp_path / "out.jsonl", **options)
    assert (summary["rows"], summary["errors"]) == (64 * 3, 64)
    errors = [json.loads(line)["error"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert errors == [None] * 64 + ["the model's scores are not finite numbers"] * 64 + [None] * 64


def test_strict_with_workers_keeps_what_comes_before(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(CHUNK, "cpu", 64)
    file = rows_file(tmp_path / "in.jsonl", 64 * 4)
    lines = file.read_text().splitlines()
    lines[64 * 2 + 3] = ""
    file.write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = {"device": "cpu", "workers": 2, "checkpoint_seconds": 0.0}
    with pytest.raises(InputError, match=f"row {64 * 2 + 4}: blank line"):
        score_file(tiny.bundle(), file, tmp_path / "out.jsonl", strict=True, **options)
    assert json.loads(record_path(tmp_path / "out.jsonl").read_text())["counts"]["rows"] == 64 * 2
