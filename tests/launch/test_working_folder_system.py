"""Jobs and workers that are started from a folder with modules of well-known names in it; none of them is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertnli.common.network import free_port
from bertnli.watch.report import MARK
from tests.conftest import SOURCES, environment
from tests.support import fake_ssh, tiny

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

RUN = "model: model\ndata: {train: pairs.jsonl}\noutput: run\nmax_steps: 1\nglobal_batch_size: 8\nreport_to: none\n"
FORGED = {"ending": {"rank": 0, "host": "a", "code": 0, "how": "ended", "text": "", "kind": "ended"}, "shown": True}
# Each training process prints lines like a watcher's report, and fails.
FORGES = f"""
import os, sys
if "BERTNLI_HEARTBEAT" in os.environ:
    for line in ("{{}}", {json.dumps(FORGED | {"rank": 0})!r}, {json.dumps(FORGED | {"reported_by": 0})!r}):
        print({MARK!r} + line, file=sys.stderr)
        print({MARK!r} + line, flush=True)
    print("bertnli train: failed as it should", file=sys.stderr, flush=True)
    os._exit(3)
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    tiny.hf_folder(folder / "model")
    for name in ("numpy", "torch", "psutil", "deepspeed", "yaml"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working folder was run')\n")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(40)))
    (folder / "run.yaml").write_text(RUN)
    fake_ssh.install(tmp_path)
    (folder / "hosts").write_text("a slots=2\n")
    return folder


def bertnli(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As the installed command is started: the working folder is not in its own path."""
    path = f"{folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-P", "-m", "bertnli.cli", *arguments],
        cwd=folder,
        env=environment(PATH=path, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


LAUNCH = ("launch", "run.yaml", "--hostfile", "hosts", "--launcher", "ssh", "--master-port")


def test_ranks_and_workers_of_ray(crowded):
    for arguments in (
        ("train", "run.yaml", "--ranks", "2"),
        ("score", str(tiny.bundle()), "pairs.jsonl", "scores", "--ray", "local"),
    ):
        done = bertnli(crowded, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "of the working folder was run" not in done.stdout + done.stderr


def test_a_rank_that_a_launcher_starts(crowded):
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "bertnli.train", "run.yaml"],
        cwd=crowded,
        env=environment(**rank, MASTER_PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_a_job_that_prints_reports_of_its_own_has_failed_as_it_did(crowded, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FORGES)
    done = bertnli(crowded, *LAUNCH, str(free_port()), PYTHONPATH=f"{tmp_path / 'site'}:{SOURCES}")
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.count("bertnli launch: rank ") == 1 and f"{MARK}{{}}" in done.stderr
    assert "of the working folder was run" not in done.stdout + done.stderr
    assert not list((crowded / "run" / "logs").glob(".key-*"))
