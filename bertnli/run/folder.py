"""The folder of a training run: run.yaml, metrics.jsonl, checkpoints/, logs/, report.html, and the result in model/.

The same command on the same folder goes on with an unfinished run and refuses a finished one; another run's folder is
refused with the keys that differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bertnli.common.errors import InputError
from bertnli.common.files import write_text
from bertnli.common.locks import acquire
from bertnli.run.config import RunConfig
from bertnli.run.run_file import load_run

# What says how a step is computed and not what it is may differ when a run goes on.
_FREE = ("checkpoint", "tensorboard", "stall_timeout", "micro_batch_tokens", "zero_stage")
_PATIENCE = 100.0  # seconds; a file server takes 90 to give up the lock of a host that it no longer hears of


class RunFolder:
    """Paths inside a run's folder, and whose run it is."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.run_file = self.path / "run.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.logs = self.path / "logs"  # of ranks that a launcher has started; there before the run is
        self.report = self.path / "report.html"
        self.model = self.path / "model"
        self._lock = FileLock(self.path / ".lock")

    @property
    def finished(self) -> bool:
        """`model/` is renamed into place when all else is done."""
        return self.model.is_dir()

    def check(self, config: RunConfig) -> None:
        """Raises InputError if the folder holds a finished run, another run, or somebody's other files."""
        if self.finished:
            raise InputError(
                f"output {self.path}", found="a finished run", do="give another output, or remove the folder first"
            )
        if not self.run_file.exists():
            if self.path.exists() and (
                not self.path.is_dir() or set(self.path.iterdir()) - {self.logs, Path(self._lock.lock_file)}
            ):
                raise InputError(f"output {self.path}", found="other files", expected="a new or empty folder")
            return
        before, now = (run.model_dump(exclude=set(_FREE)) for run in (load_run(self.run_file), config))
        differing = [key for key in now if now[key] != before[key]]
        if differing:
            raise InputError(
                f"output {self.path}: holds an unfinished run with other settings",
                found="; ".join(f"{key}: {before[key]!r} there, {now[key]!r} now" for key in differing),
                do="give the same settings to go on with it, or another output",
            )

    def check_inputs(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Raises InputError if what the run's checkpoint was trained on, sha256 by key, has changed since."""
        differing = [key for key in now if before.get(key, now[key]) != now[key]]
        if differing:
            raise InputError(
                f"output {self.path}: holds an unfinished run on other content",
                found=f"another one now behind {', '.join(differing)}",
                expected="the files that it began with",
                do="put them back, or give another output",
            )

    def claim(self, config: RunConfig, say: Callable[[str], None] = lambda line: None) -> None:
        """Make the folder, hold it until `release`, and write `run.yaml`; call it on one rank, after `check`.

        `say` is told if there is another job to wait for. Raises InputError if that one goes on, or the folder
        cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold(say)
            self.check(config)  # whoever held it may have finished the run
            write_text(self.run_file, config.to_yaml())
        except BaseException as error:
            self.release()
            if not isinstance(error, OSError):
                raise
            raise InputError(
                f"output {self.path}: cannot be written", found=error.strerror or str(error), do="give another output"
            ) from None

    def _hold(self, say: Callable[[str], None]) -> None:
        waiting = f"output {self.path}: another job is in it; waiting {_PATIENCE:.0f} s for its end"
        try:
            with suppress(NotImplementedError):  # a file system without locks
                acquire(self._lock, waiting, say, _PATIENCE)
        except Timeout:
            raise InputError(
                f"output {self.path}: another job is training in it", do="wait for that one, or give another output"
            ) from None

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._lock.is_locked:
            if self.finished:
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps, in the folder `checkpoints`."""
    return checkpoints / f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint's folder, from its name; None if it is not named like one."""
    found = re.fullmatch(r"step-(\d{8})", folder.name)
    return int(found[1]) if found else None


def steps_in(checkpoints: Path) -> list[int]:
    """The steps that have a folder in `checkpoints`, in ascending order."""
    steps = (step_of(path) for path in checkpoints.glob("step-*") if path.is_dir())
    return sorted(step for step in steps if step is not None)


def run_of(path: Path) -> RunFolder | None:
    """The run whose folder `path` is, or one of whose checkpoints; None if it is neither."""
    of_checkpoint = step_of(path) is not None and path.parent.name == "checkpoints"
    run = RunFolder(path.parent.parent if of_checkpoint else path)
    is_model = (run.path / "config.json").exists()  # with somebody's run file beside it
    return run if run.run_file.is_file() and not is_model else None


def result_of(path: Path) -> Path | None:
    """The model that the run whose folder `path` is ended with; None until it has one, and of all else that has a path.

    Its folder stands for it wherever a model is asked for. A checkpoint's does not: it is not the end.
    """
    run = run_of(path)
    return run.model if run is not None and run.path == path and run.finished else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, none if there is no file; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
