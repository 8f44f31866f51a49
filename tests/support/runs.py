"""Small training runs, in this process or as a user starts them: what the tests of training share."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from bertnli.common.network import free_port
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from tests.conftest import environment
from tests.support import tiny


@contextmanager
def process_group() -> Iterator[training.ProcessGroup]:
    before = dict(os.environ)
    joined = training.ProcessGroup()
    try:
        yield joined
    finally:
        joined.close()
        for name in os.environ.keys() - before.keys():  # RANK and the like: a later test would be taken for a rank
            del os.environ[name]


@pytest.fixture(scope="module")
def ranks() -> Iterator[training.ProcessGroup]:
    """One process group for all runs of a module: a process can join only one."""
    with process_group() as joined:
        yield joined


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run file for a tiny model: `run(epochs=1, …)` returns its path."""
    return run_files(tmp_path)


def run_files(folder: Path) -> Callable[..., Path]:
    """Puts a tiny model (start/) and rows (train.jsonl) into `folder`, and returns what writes run files there."""
    tiny.hf_folder(folder / "start")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(400)))

    def make(name: str = "run", **keys: Any) -> Path:
        content = {
            "model": str(folder / "start"),
            "data": {"train": str(folder / "train.jsonl"), "eval": {"holdout": 60}},
            "output": str(folder / name),
            "max_steps": 12,
            "global_batch_size": 16,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "report_to": "none",
            **keys,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return make


def train(path: Path, ranks: training.ProcessGroup, **sets: Any) -> dict[str, Any]:
    config = load_run(path, [f"{key}={value}" for key, value in sets.items()])
    return training.train(config, ranks, say=lambda line: None)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fork(target: Callable[..., object], *arguments: object, **variables: str) -> multiprocessing.Process:
    """`target` in a process that has torch and DeepSpeed imported already, which saves seconds; started.

    variables: more for its environment. Its exit code is what `target` returns.
    """
    server = multiprocessing.get_context("forkserver")  # it forks a process without threads
    server.set_forkserver_preload([__name__])
    process = server.Process(target=_exit_with, args=(environment(**variables), target, arguments), daemon=True)
    process.start()
    return process  # type: ignore[return-value]


def _exit_with(variables: dict[str, str], target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    code = target(*arguments)
    os._exit(code if isinstance(code, int) else 0)  # as the training process does (bertnli/train/process.py)


def on_ranks(world: int, target: Callable[..., Any], *arguments: object) -> Any:
    """What `target(*arguments)` returns on the first of `world` ranks, a process each; fails if it fails on any."""
    together = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(world)]
    ranks = [
        fork(_send_result, pipe[1], target, arguments, **together, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank, pipe in enumerate(pipes)
    ]
    try:
        results = []
        for receive, send in pipes:
            send.close()
            assert receive.poll(200), "a rank neither returned nor failed"
            failure, result = receive.recv()
            assert not failure, failure
            results.append(result)
    finally:
        for rank in ranks:
            rank.kill()
    return results[0]


def _send_result(send: Any, target: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        send.send(("", target(*arguments)))
    except BaseException:
        send.send((traceback.format_exc(), None))


def train_here(path: Path, *sets: str) -> tuple[dict[str, Any], list[str]]:
    """A rank's training in a process of `on_ranks`: the summary, and the lines for the user."""
    lines: list[str] = []
    return training.train(load_run(path, sets), training.ProcessGroup(), lines.append), lines


def start(bertnli_arguments: list[object], cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bertnli.cli", *map(str, bertnli_arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment(), stderr=subprocess.PIPE, text=True)


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(losses(folder)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {folder}")
