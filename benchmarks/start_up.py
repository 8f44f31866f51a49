"""Start-up: the time from the command to the first scored row and to the first step of training, and of imports.

Every file has been read once before, so the disk cache is warm. Each run is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine, work
from benchmarks.harness import Say, spread
from benchmarks.peer import stopwatch
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.peers.bertnli_train import end
from bertnli.common.errors import RunError
from bertnli.fetch.resolve import resolve_data

_GLANCE = 0.002  # seconds between two checks for the output
_PATIENCE = 120.0
_IMPORT = "from bertnli import Scorer; import sys; print(sum(name.split('.')[0] == 'torch' for name in sys.modules))"


def start_up(folder: Path, model: str, data: str, train_data: str, times: int, say: Say) -> dict[str, Any]:
    """Measure each `times` times, interleaved, after one run that does not count: it prepares the training corpus."""
    given = work.scoring(folder, model, data, 1)
    peer = BertnliScore(given)
    peer.load()  # the bundle
    bundle = folder / "bundle-fp32"
    torch_modules = 0
    run_file = {
        "model": str(given.model),
        "data": {"train": str(resolve_data(train_data))},
        "output": str(folder / "run"),
        "max_steps": 10**6,
        "global_batch_size": 32,
        "report_to": "none",
    }

    def python(program: str) -> float:
        return _seconds([sys.executable, "-c", program])[0]

    def scorer() -> float:
        nonlocal torch_modules
        seconds, printed = _seconds([sys.executable, "-c", _IMPORT])
        torch_modules = int(printed)
        return seconds

    ways: dict[str, Callable[[], float]] = {
        "python": lambda: python(""),
        "torch": lambda: python("import torch"),
        "import": scorer,
        "score": lambda: _first_row(bundle, given.rows, folder / "scores.jsonl"),
        "train": lambda: _first_step(run_file, folder / "cache"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
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
        "work": given.to_json(data) | {"trained_on": train_data},
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


def _first_step(run_file: dict[str, Any], cache: Path) -> float:
    """Seconds until the metrics of the first step are on disk. cache: of the corpus."""
    output = Path(run_file["output"])
    path, log, metrics = output.with_suffix(".yaml"), output.with_suffix(".log"), output / "metrics.jsonl"
    path.write_text(yaml.safe_dump(run_file))
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "bertnli.cli", "train", str(path)]
    environment = {**os.environ, "BERTNLI_CACHE": str(cache)}
    with log.open("wb") as stream, stopwatch() as seconds:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        try:
            while not (metrics.exists() and b"\n" in metrics.read_bytes()):
                if process.poll() is not None or seconds() > _PATIENCE:
                    raise RunError("bertnli train made no step", found=log.read_text()[-500:])
                time.sleep(_GLANCE)
            return seconds()
        finally:
            end(process)


def score_command(bundle: Path, rows: Path, out: Path) -> list[str]:
    """The command line of `bertnli score` with this interpreter."""
    return [sys.executable, "-m", "bertnli.cli", "score", str(bundle), str(rows), str(out), "--restart", "--json"]
