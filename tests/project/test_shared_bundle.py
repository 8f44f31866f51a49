"""The bundle that all tests read stays until the run that made it ends."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT
from tests.support import tiny


def test_a_pytest_that_a_test_starts_leaves_the_bundle():
    bundle = tiny.bundle()
    inner = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/project/test_shared_bundle.py"]
    subprocess.run(inner, cwd=ROOT, check=True, capture_output=True)
    assert bundle.is_dir()
