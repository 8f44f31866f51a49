"""Start-up: the time from the command to the first scored row, and the time of `from bertnli import Scorer`.

Every file has been read once before, so the disk cache is warm. Each run is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.harness import Say, spread, stopwatch
from benchmarks.peers.bertnli_score import BertnliScore
from bertnli.common.errors import RunError

_GLANCE = 0.002  # seconds between two checks for the output
_PATIENCE = 120.0
_IMPORT = "from bertnli import Scorer; import sys; print(sum(name.split('.')[0] == 'torch' for name in sys.modules))"


def start_up(folder: Path, model: str, data: str, times: int, say: Say) -> dict[str, Any]:
    """Measure each `times` times, interleaved, after one run that does not count."""
    given = work.scoring(folder, model, data, 1)
    peer = BertnliScore(given)
    peer.load()  # the bundle
    bundle = folder / "bundle-fp32"
    torch_modules = 0

    def python() -> float:
        return _seconds([sys.executable, "-c", ""])[0]

    def scorer() -> float:
        nonlocal torch_modules
        seconds, printed = _seconds([sys.executable, "-c", _IMPORT])
        torch_modules = int(printed)
        return seconds

    found: dict[str, list[float]] = {"python": [], "import": [], "score": []}
    ways: dict[str, Callable[[], float]] = {
        "python": python,
        "import": scorer,
        "score": lambda: _first_row(bundle, given.rows, folder / "scores.jsonl"),
    }
    for number in range(times + 1):
        for name, way in ways.items():
            seconds = way()
            if number:
                found[name].append(seconds)
                say(f"{name}, {number} of {times}: {seconds:.2f} s")
    return {
        "name": "start-up",
        "kind": "start-up",
        **machine.describe(),
        "work": given.to_json(data),
        "seconds": {name: {**spread(seconds), "runs": seconds} for name, seconds in found.items()},
        "torch_modules": torch_modules,
    }


def _seconds(command: list[str]) -> tuple[float, str]:
    """The seconds of a complete process, and what it printed."""
    with stopwatch() as seconds:
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{command[-1][:60]} ended with exit code {done.returncode}", found=done.stderr[-500:])
    return seconds(), done.stdout


def _first_row(bundle: Path, rows: Path, out: Path) -> float:
    """Seconds until the output of one row exists; it appears in one rename, so it is complete."""
    out.unlink(missing_ok=True)
    with (
        stopwatch() as seconds,
        subprocess.Popen(score_command(bundle, rows, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        while not out.exists() and process.poll() is None and seconds() < _PATIENCE:
            time.sleep(_GLANCE)
        found = seconds()
        printed = process.stdout.read().decode(errors="replace")
    if process.returncode or json.loads(out.read_text().splitlines()[0]).get("prediction") is None:
        raise RunError(f"bertnli score ended with exit code {process.returncode}", found=printed[-500:])
    return found


def score_command(bundle: Path, rows: Path, out: Path) -> list[str]:
    """The command line of `bertnli score` with this interpreter."""
    return [sys.executable, "-m", "bertnli.cli", "score", str(bundle), str(rows), str(out), "--restart", "--json"]
