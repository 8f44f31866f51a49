"""bertnli's own trainer: the command that a user gives, timed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from benchmarks.peer import Peer, Run
from benchmarks.work import Work
from benchmarks.worker import end_children
from bertnli.common.errors import RunError

_POLL = 0.02  # seconds between two checks of metrics.jsonl; each takes time from the cores that are measured
_PATIENCE = 600.0  # seconds for a step, the first one's start-up included
_NEVER = 10**6


@dataclass
class BertnliTrain(Peer):
    """`python -m bertnli.train RUN.yaml`, stopped (SIGSTOP) between runs.

    A run is timed from one line of metrics.jsonl to another by the harness's clock, so everything that the loop does in
    between counts. The step during which the process was stopped does not count.
    """

    work: Work
    whole_last_block: ClassVar[bool] = False
    name: str = "bertnli"
    zero_stage: int = 0
    micro_batch_tokens: int | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        self.about = f"bertnli, ZeRO-{self.zero_stage}"
        self._process: subprocess.Popen[bytes] | None = None
        # Losses in bf16 have three valid digits.
        self.tolerance = 1e-3 if self.precision == "fp32" else 2e-2

    def options(self) -> dict[str, Any]:
        given = self._run_file(self.work.rows, self.name)
        return {key: value for key, value in given.items() if key not in ("model", "data", "output")}

    def check(self) -> list[float]:
        """The losses of the first steps, each on the first batch of the rows, without dropout."""
        steps = self.check_steps
        rows = self.work.head(self.work.batch_size)
        output = self._start(rows, f"{self.name}-check", dropout=0.0, max_steps=steps)
        self._wait_for(output, steps)
        assert self._process is not None
        self._process.wait(_PATIENCE)
        return [row["loss"] for row in steps_of(output)[:steps]]

    def prepare(self) -> None:
        self._output = self._start(self.work.rows, self.name)
        self._wait_for(self._output, 1)
        self._stop()

    def run(self, amount: int) -> Run:
        steps = max(1, amount // self.work.batch_size)
        assert self._process is not None
        before = len(steps_of(self._output))
        self._process.send_signal(signal.SIGCONT)
        self._wait_for(self._output, before + 1)
        began = time.perf_counter()
        self._wait_for(self._output, before + 1 + steps)
        seconds = time.perf_counter() - began
        self._stop()
        return Run(steps * self.work.batch_size, seconds)

    def processes(self) -> list[int]:
        """The command's process only; this one just waits."""
        return [self._process.pid] if self._process is not None else []

    # ------------------------------------------------------------------------------------------------------------

    def _run_file(self, rows: Path, name: str, **more: Any) -> dict[str, Any]:
        return {
            "model": str(self.work.model),
            "data": {"train": str(rows)},
            "output": str(self.work.folder / f"{name}-{self.work.batch_size}"),
            "max_steps": _NEVER,
            "global_batch_size": self.work.batch_size,
            "learning_rate": self.work.learning_rate,
            "schedule": "constant",
            "warmup": 0.0,
            "precision": self.precision,
            "zero_stage": self.zero_stage,
            "micro_batch_tokens": self.micro_batch_tokens,
            "checkpoint": {"every_steps": _NEVER},
            **more,
        }

    def _start(self, rows: Path, name: str, **more: Any) -> Path:
        content = self._run_file(rows, name, **more)
        self._process = start(content)
        return Path(content["output"])

    def _wait_for(self, output: Path, steps: int) -> None:
        """Wait until `steps` steps have been logged."""
        assert self._process is not None
        file, size = output / "metrics.jsonl", -1
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if file.exists() and file.stat().st_size != size:
                size = file.stat().st_size
                if file.read_bytes().count(b"\n") >= steps:  # nothing is evaluated, so each line is a step
                    return
            if self._process.poll() not in (None, 0):
                raise RunError(f"bertnli train ended with exit code {self._process.returncode}")
            time.sleep(_POLL)
        raise RunError(f"bertnli train: no step in {_PATIENCE:.0f} s")

    def _stop(self) -> None:
        """Stop the process; returns when every thread has stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def start(
    run_file: Mapping[str, Any], environment: Mapping[str, str] | None = None, **streams: Any
) -> subprocess.Popen[bytes]:
    """Start `python -m bertnli.train` on a run file with these keys, with more environment variables."""
    path = Path(run_file["output"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(dict(run_file)))
    command = [sys.executable, "-m", "bertnli.train", str(path), "--json"]
    return subprocess.Popen(command, env={**os.environ, **(environment or {})}, **streams)


@contextmanager
def started(
    run_file: Mapping[str, Any], environment: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """The same; the process ends with the block."""
    process = start(run_file, environment, **streams)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started, if it still runs."""
    if process.poll() is None:
        end_children(process.pid)
        process.kill()
        process.wait()


def train(run_file: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run it to its end; returns the summary that it prints. Raises RunError if it fails."""
    log = Path(run_file["output"]).with_suffix(".log")
    with log.open("wb") as errors, started(run_file, environment, stdout=subprocess.PIPE, stderr=errors) as process:
        out, _ = process.communicate()
    if process.returncode:
        raise RunError(
            f"bertnli train ended with exit code {process.returncode}", found=log.read_text()[-500:], do=f"see {log}"
        )
    return json.loads(out.splitlines()[-1])


def steps_of(output: Path) -> list[dict[str, Any]]:
    """The figures of each step that a run has logged so far."""
    lines = (output / "metrics.jsonl").read_text().split("\n")[:-1]  # complete lines
    return [row for row in map(json.loads, lines) if "loss" in row]
