"""Small training runs, in this process or as a user starts them: what the tests of training share."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from tests.conftest import environment
from tests.support import tiny


@pytest.fixture(scope="module")
def ranks() -> Iterator[training.ProcessGroup]:
    """One process group for all runs of a module: a process can join only one."""
    joined = training.ProcessGroup()
    yield joined
    joined.close()


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run file for a tiny model: `run(epochs=1, …)` gives its path; keys may be dotted."""
    tiny.hf_folder(tmp_path / "start")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(400)))

    def make(name: str = "run", **keys: Any) -> Path:
        content = {
            "model": str(tmp_path / "start"),
            "data": {"train": str(tmp_path / "train.jsonl"), "eval": {"holdout": 60}},
            "output": str(tmp_path / name),
            "max_steps": 12,
            "global_batch_size": 16,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "tensorboard": False,
            **keys,
        }
        path = tmp_path / f"{name}.yaml"
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
