"""All property tests once more, with many examples: `make test` gives each of them a few."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_every_property_holds_for_many_examples():
    chosen = ["-m", "hypothesis and not system", "--hypothesis-profile=many"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "auto", *chosen, "tests"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) > 30
