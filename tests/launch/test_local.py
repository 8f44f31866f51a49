"""Several ranks on one machine: each uses a device that the user chose, and a failure is reported once."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from bertnli_launch import local

from bertnli import cli
from bertnli.common.errors import InputError
from bertnli.common.gpus import Gpus
from bertnli.common.network import free_port
from tests.conftest import SOURCES, environment
from tests.support import tiny

RUN = "model: minilm\ndata: {train: snli-100k}\noutput: run\nmax_steps: 2\n"


@pytest.fixture
def started(monkeypatch):
    """What `run` would start: the devices of the ranks, and the environment."""

    class Started:
        code = 0
        devices: list[str]
        environment: dict[str, str]

    def run_child(command, environment, to_children):
        (info,) = [part.split("=", 1)[1] for part in command if part.startswith("--world_info=")]
        Started.devices = json.loads(base64.urlsafe_b64decode(info))["localhost"]
        Started.environment = environment
        return Started.code, ""

    monkeypatch.setattr(local, "run_child", run_child)
    return Started


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["0", "1", "2"]),
        ("4,5,6,7", ["4", "5", "6"]),  # the launcher would have taken 0, 1 and 2
        ("GPU-8a, MIG-1,3", ["GPU-8a", "MIG-1", "3"]),
        ("5", ["5", "-1", "-1"]),
        ("", ["-1", "-1", "-1"]),  # hidden GPUs stay hidden
    ],
)
def test_ranks_get_the_devices_that_the_user_chose(started, monkeypatch, visible, devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local.run(3, ["run.yaml"]) == 0
    assert started.devices == devices


def test_ranks_import_nothing_from_here_and_are_no_other_jobs(started, monkeypatch):
    monkeypatch.setenv("BERTNLI_JOB", "another")
    monkeypatch.setenv("BERTNLI_WATCH_PORT", "19500")
    assert local.run(2, ["run.yaml"]) == 0
    assert started.environment["PYTHONSAFEPATH"] == "1"
    assert not {"BERTNLI_JOB", "BERTNLI_WATCH_PORT"} & started.environment.keys()


def test_too_few_cores_are_a_warning(started, monkeypatch, capfd):
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    assert local.run(8, ["run.yaml"]) == 0
    assert capfd.readouterr().err == ""
    assert local.run(9, ["run.yaml"]) == 0
    assert "9 ranks share 8 CPU cores" in capfd.readouterr().err


# 247: DeepSpeed's launcher, where a watcher itself was killed by SIGKILL
@pytest.mark.parametrize(("code", "returned"), [(0, 0), (1, 1), (2, 2), (137, 137), (143, 143), (247, 137)])
def test_exit_codes_are_the_ranks(started, monkeypatch, code, returned):
    monkeypatch.setattr(started, "code", code)
    assert local.run(2, ["run.yaml"]) == returned


# A machine with two GPUs, as torch sees it; a rank that has one waits in the rendezvous, as it would there.
TWO_GPUS = (
    "import os, sys, time\n"
    "if 'BERTNLI_HEARTBEAT' in os.environ:\n"  # only in the training process: the watcher does not load torch
    "    import torch, torch.distributed\n"
    "    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2\n"
    "    torch.distributed.init_process_group = lambda *_, **__: time.sleep(100)\n"
)


def launched(tmp_path: Path, stand_in: str, ranks: int, run: str = RUN) -> subprocess.CompletedProcess[str]:
    """`ranks` real processes through DeepSpeed's launcher, each of which runs `stand_in` first."""
    program = f"import sys; from bertnli_launch import local; sys.exit(local.run({ranks}, ['run.yaml']))"
    return started_with(tmp_path, stand_in, run, "-c", program)


def started_with(
    tmp_path: Path, stand_in: str, run: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, beside a run.yaml that holds `run`; every process runs `stand_in` first."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(stand_in)
    (tmp_path / "run.yaml").write_text(run)
    paths = os.pathsep.join([str(tmp_path / "site"), SOURCES])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment(PYTHONPATH=paths, DS_ACCELERATOR="cpu", **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_rank_without_a_device_says_so_once_and_ends_the_job(tmp_path):
    done = launched(tmp_path, TWO_GPUS, ranks=3)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bertnli")]
    said = [line for line in said if "CPU cores" not in line]  # a note, where this machine has few
    assert len(said) == 1 and "GPU" in said[0] and "fewer ranks" in said[0], done.stderr
    assert "Traceback" not in done.stderr and "ERROR" not in done.stdout


def test_more_ranks_than_devices_are_refused_before_any_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "find_gpus", lambda: Gpus(1))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(local, "run", lambda *_: pytest.fail("a rank was started"))
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(InputError, match="--ranks; found 3; expected at most 1"):
        cli.train(str(tmp_path / "run.yaml"), ranks=3)


def test_torch_is_not_loaded_to_count_gpus_that_the_driver_does_not_have(tmp_path, monkeypatch):
    started = []
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(cli, "find_gpus", lambda: Gpus(0))
    monkeypatch.setattr(cli, "_torch_devices", lambda: pytest.fail("torch was loaded"))
    monkeypatch.setattr(local, "run", lambda ranks, _: started.append(ranks) or 0)
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(typer.Exit):
        cli.train(str(tmp_path / "run.yaml"), ranks=3)
    assert started == [3]


def test_a_rank_that_was_killed_is_told(tmp_path):
    killed = (
        "import os, signal\n"
        "if os.environ.get('RANK') == '1' and 'BERTNLI_HEARTBEAT' in os.environ:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = launched(tmp_path, killed, ranks=2)
    assert done.returncode == 137, done.stderr
    assert re.search(r"^bertnli train: rank 1 on \S+ was killed by SIGKILL .*memory", done.stderr, re.MULTILINE)


def test_torch_that_aborts_a_finished_process_does_not_fail_the_run(tmp_path):
    """Seen: `terminate called without an active exception` from gloo's threads, over a slow network."""
    tiny.hf_folder(tmp_path / "start")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(40)))
    aborts = "import atexit, os\nif 'BERTNLI_HEARTBEAT' in os.environ:\n    atexit.register(os.abort)\n"
    run = "model: start\ndata: {train: rows.jsonl}\noutput: run\nmax_steps: 2\n"
    rank = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    done = started_with(tmp_path, aborts, run, "-m", "bertnli.train", "run.yaml", **rank)
    assert done.returncode == 0, done.stderr
    assert "training: 2 steps" in done.stdout and (tmp_path / "run" / "model").is_dir()


def test_a_mistake_that_every_rank_finds_is_told_once_whichever_finds_it_first(tmp_path):
    """Rank 0 prints the error, and is the slower one here: the launcher would end it before it has printed."""
    tiny.hf_folder(tmp_path / "start")
    (tmp_path / "rows.jsonl").write_text(json.dumps(tiny.snli_rows(1)[0]) + "\nnot json\n")
    done = launched(
        tmp_path,
        "import os, time\n"
        "if os.environ.get('RANK') == '0' and 'BERTNLI_HEARTBEAT' in os.environ:\n"
        "    from bertnli.data import corpus\n"
        "    prepare = corpus.prepare\n"
        "    corpus.prepare = lambda *found, **more: time.sleep(2) or prepare(*found, **more)\n",
        ranks=2,
        run="model: start\ndata: {train: rows.jsonl}\noutput: run\nmax_steps: 2\n",
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bertnli")]
    assert len(said) == 1 and "1 bad row" in said[0], done.stderr
