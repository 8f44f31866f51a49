"""How OpenMP's threads wait: set in time, in every way that training is started, and left to a user who says it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bertnli.common.cores import spin_briefly
from tests.conftest import environment

# What `import torch` loads that counts here: libgomp reads its variables as it is loaded.
LOAD = """
import ctypes, importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
ctypes.CDLL(str(next(folder.glob("libgomp*"))))
"""


def told(program: str, **variables: str) -> str:
    """The spin count that libgomp shows as it is loaded (OMP_DISPLAY_ENV); the first one, of this process itself."""
    clean = {name: value for name, value in environment().items() if name not in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "OMP_DISPLAY_ENV": "verbose", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return next(line.partition("=")[2].strip("' ") for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line)


@pytest.mark.parametrize(
    "start",
    [
        "from bertnli import cli\ntry: cli.main()\nexcept SystemExit: pass",
        "from bertnli.train.process import main; main(['none.yaml'])",
    ],
    ids=["the command", "a rank"],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(start):
    program = f"import sys; sys.argv[1:] = ['fetch', '--list']\n{start}\n{LOAD}"
    assert told(program) == "10000"
    assert told(program, GOMP_SPINCOUNT="77") == "77"
    assert told(program, OMP_WAIT_POLICY="passive") == "0"


def test_whatever_openmp_torch_was_built_with():
    given: dict[str, str] = {}
    spin_briefly(given)
    assert given == {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
