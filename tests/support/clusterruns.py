"""Small training jobs on several hosts (tests/support/hosts.py): what the tests of launching share."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT, SOURCES, environment
from tests.support import tiny
from tests.support.hosts import Host, cluster, python
from tests.support.runs import weights

# A folder name with what a shell treats as special characters.
NASTY = 'it\'s $(touch owned); "%n" & co'

SETTINGS = ["max_steps=12", "seed=7"]
"""Of the run that `on_one_host` is."""

STEPS = 40
"""Of the run that `undisturbed` is: long enough to be held, stopped or killed, and to go on."""

_HELD_AFTER = 20
_HOLD = f"""
import os
if "BERTNLI_HEARTBEAT" in os.environ:  # a training process
    import signal, threading, time
    from pathlib import Path
    from bertnli.common import heartbeat

    beat, here, phase, step = heartbeat.beat, Path(__file__).parent, "starting", 0

    def told_to_stop():
        return getattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "signal", 0)

    def beat_and_hold(now, **more):
        global phase, step
        beat(now, **more)
        phase, step = now, int(now.split()[1]) if now.startswith("step") else step
        if now == "step {_HELD_AFTER + 1}" and os.environ["RANK"] == "@":
            (here / "held").touch()
            while not (told_to_stop() or (here / "go").exists()):
                time.sleep(0.05)
                beat(now)

    def beat_besides():  # to load torch, or to write a report, may take longer than a short stall_timeout
        while True:
            time.sleep(0.5)
            if step in (0, {STEPS}):
                beat(phase)

    heartbeat.beat = beat_and_hold
    threading.Thread(target=beat_besides, daemon=True).start()
"""


class Hold:
    """Holds a job in the middle, however fast the machine is: one rank waits after step 20, and the others for it.

    It waits until it is told to stop (by SIGINT or SIGTERM), or until `release` is called. The job's processes need
    `pythonpath` as PYTHONPATH.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self._folder = folder / "hold"
        self._folder.mkdir()
        (self._folder / "sitecustomize.py").write_text(_HOLD.replace("@", str(rank)))
        self.pythonpath = f"{self._folder}:{SOURCES}"

    def wait(self) -> None:
        """Until the job is held."""
        deadline = time.monotonic() + 120
        while not (self._folder / "held").exists():
            assert time.monotonic() < deadline, "the job is not held"
            time.sleep(0.05)

    def release(self) -> None:
        (self._folder / "go").touch()


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all hosts share: a small BERT and 600 SNLI rows, real ones if they are available."""
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
        "report_to": "none",
    }
    (folder / "run me.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where hosts a and b have the shared folder under a name that DeepSpeed itself can pass to a shell."""
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, work: Path, plain: Path) -> Iterator[dict[str, Host]]:
    """Two equal hosts, a and b."""
    alike = {"mounts": {plain: work}}
    with cluster(tmp_path_factory.mktemp("two"), a=alike, b=alike) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def on_one_host(work: Path) -> dict[str, torch.Tensor]:
    """The weights of the run with SETTINGS, with two ranks on this machine."""
    return _two_ranks_here(work, "runs/one", *SETTINGS)


@pytest.fixture(scope="session")
def undisturbed(work: Path) -> dict[str, torch.Tensor]:
    """The weights after STEPS steps, with two ranks on this machine and no failure."""
    return _two_ranks_here(work, "runs/undisturbed", *SETTINGS, f"max_steps={STEPS}")


def _two_ranks_here(work: Path, output: str, *settings: str) -> dict[str, torch.Tensor]:
    command = [sys.executable, "-m", "bertnli.cli", "train", "run me.yaml", "--ranks", "2"]
    command += sets(f"output={output}", *settings)
    done = subprocess.run(command, cwd=work, env=environment(**own(work)), capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return weights(work / output)


def bertnli(host: Host, work: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, called on a host in the shared folder."""
    return host.run(*python("-m", "bertnli.cli", *arguments), cwd=work, env={**own(work), **env}, timeout=150)


def own(work: Path) -> dict[str, str]:
    """The variables of these runs: a cache of their own, and one thread.

    With more threads sums are in another order, and after AdamW's first steps the difference is more than 1e-6.
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
    """No process is left on a host, and no shell has run a part of a name."""
    return not any(host.pids() for host in hosts.values()) and not list(work.parent.rglob("owned"))
