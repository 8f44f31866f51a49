"""The bundle that all tests read stays until the run that made it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import tiny

WITHIN = {
    "pytest": ["pytest", "-q", "--collect-only", "tests/project/test_shared_bundle.py"],
    "the trials of faults": ["tests.faults", "--minutes", "0"],
}


def run(command: list[str], **environment: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != tiny.RUN} | environment
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, capture_output=True, env=env)


@pytest.mark.parametrize("command", WITHIN.values(), ids=WITHIN)
def test_a_run_within_a_run_leaves_the_bundle(command: list[str]):
    bundle = tiny.bundle()
    run(command, **{tiny.RUN: os.environ[tiny.RUN]})
    assert bundle.is_dir()


def test_who_begins_a_run_removes_its_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv(tiny.RUN)
    end_run = tiny.begin_run()
    made = tmp_path / f"tiny-bundle-{os.environ[tiny.RUN]}"
    made.mkdir()
    tiny.begin_run()()
    assert made.is_dir()
    end_run()
    assert not made.exists()
