"""A small training job on several real hosts (tests/support/hosts.py): what the tests of launching share."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT, environment
from tests.support import tiny
from tests.support.hosts import Host, cluster, python
from tests.support.runs import weights

# A folder's name that a shell would take apart.
NASTY = 'it\'s $(touch owned); "%n" & co'
SETTINGS = ["max_steps=12", "seed=7"]
"""Of the run that `on_one_host` is."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all hosts share: a small BERT and 600 SNLI rows, real ones where they are at hand."""
    folder = tmp_path_factory.mktemp("work") / NASTY
    tiny.hf_folder(folder / "start")
    real = Path(os.environ.get("BERTNLI_TEST_DATA", ROOT.parent / "shared" / "data")) / "snli_1.0"
    if real.is_dir():
        with gzip.open(real / "snli_1.0_train_100k.jsonl.gz", "rt") as file:
            rows = [next(file) for _ in range(600)]
    else:
        rows = [json.dumps(row) + "\n" for row in tiny.snli_rows(600)]
    (folder / "train; rows.jsonl").write_text("".join(rows))
    content = {
        "model": "start",
        "data": {"train": "train; rows.jsonl", "eval": {"holdout": 60}},
        "output": "runs/x",
        "max_steps": 4,
        "global_batch_size": 16,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "dropout": 0.0,
        "tensorboard": False,
    }
    (folder / "run me.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where hosts a and b have the shared folder by a name that DeepSpeed itself can hand to a shell."""
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, work: Path, plain: Path) -> Iterator[dict[str, Host]]:
    """Two hosts, a and b, alike."""
    alike = {"mounts": {plain: work}}
    with cluster(tmp_path_factory.mktemp("two"), a=alike, b=alike) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def on_one_host(work: Path) -> dict[str, torch.Tensor]:
    """The weights of the run with SETTINGS with two ranks on this machine."""
    command = [sys.executable, "-m", "bertnli.cli", "train", "run me.yaml", "--ranks", "2"]
    command += sets("output=runs/one", *SETTINGS)
    done = subprocess.run(command, cwd=work, env=environment(**own(work)), capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return weights(work / "runs" / "one")


def bertnli(host: Host, work: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, called on a host in the shared folder."""
    return host.run(*python("-m", "bertnli.cli", *arguments), cwd=work, env={**own(work), **env}, timeout=150)


def own(work: Path) -> dict[str, str]:
    """The variables of a run's own: a cache that is nobody's, and one thread.

    With more threads sums are in another order, and AdamW's first steps make more than 1e-6 of it.
    """
    return {"BERTNLI_CACHE": str(work.parent / "cache"), "OMP_NUM_THREADS": "1"}


def sets(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float = 1e-6) -> bool:
    """No weight differs by more than `within`."""
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=0, atol=within) for name in one
    )


def clean(hosts: dict[str, Host], work: Path) -> bool:
    """No process is left on a host, and no shell has run what was a name."""
    return not any(host.pids() for host in hosts.values()) and not list(work.parent.rglob("owned"))
