"""The kill and damage trials in their short form: `python -m tests.faults` runs them for an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.system
def test_killed_and_damaged_commands_end_right():
    trials = ["--minutes", "0.3", "--seed", "11"]
    done = subprocess.run([sys.executable, "-m", "tests.faults", *trials], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
