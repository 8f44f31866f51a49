"""The folder of a training run: run.yaml, metrics.jsonl, checkpoints/, logs/, report.html, and the result in model/.

The same command continues an unfinished run in it, and refuses a finished one. The folder of a run with other settings
is refused, with the keys that differ.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.files import write_text
from bertnli.common.locks import Lock
from bertnli.run.config import RunConfig
from bertnli.run.run_file import LoadedRun, load_run, read_run

# Keys that may differ when a run is continued: they change how a step is computed, not its result.
_FREE = ("checkpoint", "report_to", "stall_timeout", "micro_batch_tokens", "zero_stage", "gradient_checkpointing")
_PATIENCE = 100.0  # seconds; a file server takes 90 to release the lock of a host that it no longer hears from


class RunFolder:
    """Paths inside a run's folder; checks whose run it is, and holds its lock."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.run_file = self.path / "run.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.logs = self.path / "logs"  # of ranks that a launcher started; made before the run is
        self.report = self.path / "report.html"
        self.model = self.path / "model"
        self._lock = Lock(self.path / ".lock")

    @property
    def finished(self) -> bool:
        """Whether the run is finished: `model/` gets its name in the very last step."""
        return self.model.is_dir()

    def check(self, config: RunConfig) -> None:
        """Raises InputError if the folder contains a finished run, a run with other settings, or other files."""
        encoding = sys.getfilesystemencoding()
        if encoding != "utf-8" and not str(self.path).isascii():  # TensorBoard, for one, encodes it as UTF-8
            raise InputError(
                f"output {self.path}: not a name of ASCII characters, in a locale whose encoding is {encoding}",
                do="set PYTHONUTF8=1 in the environment, or give another output",
            )
        if self.finished:
            raise InputError(
                f"output {self.path}", found="a finished run", do="give another output, or remove the folder first"
            )
        if not self.run_file.exists():
            if self.path.exists() and (
                not self.path.is_dir() or set(self.path.iterdir()) - {self.logs, self._lock.path}
            ):
                raise InputError(f"output {self.path}", found="other files", expected="a new or empty folder")
            return
        before, now = (run.model_dump(exclude=set(_FREE)) for run in (load_run(self.run_file), config))
        if differing := list(_differences(before, now)):
            raise InputError(
                f"output {self.path}: contains an unfinished run with other settings",
                found="; ".join(differing),
                do="give the same settings to continue it, or another output",
            )

    def check_inputs(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Raises InputError if a file that the run's checkpoint was trained on has changed since.

        before, now: sha256 by the file's key in the run file.
        """
        differing = [key for key in now if before.get(key, now[key]) != now[key]]
        if differing:
            raise InputError(
                f"output {self.path}: contains an unfinished run on other content",
                found=f"changed content of {', '.join(differing)}",
                expected="the files that it started with",
                do="put them back, or give another output",
            )

    def claim(self, config: RunConfig, say: Callable[[str], None] = lambda line: None) -> None:
        """Make the folder, lock it until `release`, and write `run.yaml`. Call it on one rank, after `check`.

        `say` prints that another job is waited for. Raises InputError if that job does not end, or if the folder
        cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold(say)
            self.check(config)  # the job that held the lock may have finished the run
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
            self._lock.acquire(waiting, say, _PATIENCE)
        except TimeoutError:
            raise InputError(
                f"output {self.path}: another job is training in it", do="wait for that one, or give another output"
            ) from None

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lock.held:
            if self.finished:
                self._lock.path.unlink(missing_ok=True)
            self._lock.release()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """In words, for each key (dotted) that has another value."""
    for key in dict.fromkeys((*now, *before)):
        there, here = before.get(key), now.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here, f"{above}{key}.")
        else:
            yield f"{above}{key}: {there!r} there, {here!r} now"


def run_of_job(path: str | Path, sets: Sequence[str], ranks: int) -> LoadedRun:
    """The run file at `path` for a job of `ranks` ranks, as `read_run`. A run that goes on keeps the number of pairs in
    a step, also where a DeepSpeed file says it for each rank and the job has other ranks than before."""
    loaded = read_run(path, sets, ranks)
    folder = RunFolder(loaded.config.output)
    if not loaded.by_ranks or not folder.run_file.exists():
        return loaded
    before = load_run(folder.run_file).global_batch_size
    if before == loaded.config.global_batch_size:
        return loaded
    note = f"global_batch_size: {before}, as the run began on another number of ranks"
    config = loaded.config.model_copy(update={"global_batch_size": before})
    return loaded._replace(config=config, notes=(*loaded.notes, note))


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
    """The run if `path` is its folder or one of its checkpoints; otherwise None."""
    of_checkpoint = step_of(path) is not None and path.parent.name == "checkpoints"
    run = RunFolder(path.parent.parent if of_checkpoint else path)
    is_model = (run.path / "config.json").exists()  # with a copied run file in it
    return run if run.run_file.is_file() and not is_model else None


def result_of(path: Path) -> Path | None:
    """If `path` is the folder of a finished run, its model/ folder; otherwise None, also for a checkpoint.

    So a command that takes a model takes a finished run's folder too.
    """
    run = run_of(path)
    return run.model if run is not None and run.path == path and run.finished else None


def read_metrics(path: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """The rows of a metrics file; [] if there is no file. Other lines are left out, and `warn` is told how
    many; but not of a last line that a kill cut short."""
    if not path.is_file():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    rows = [_metrics_row(line) for line in (*lines, last)]
    if damaged := rows[:-1].count(None):
        warn(f"{path}: {damaged} damaged lines are left out")
    return [row for row in rows if row is not None]


def _metrics_row(line: bytes) -> dict[str, Any] | None:
    """A line's figures by name, `step` among them; None if it is no such line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    return (
        row
        if all(type(figure) in (int, float) and abs(figure) <= sys.float_info.max for figure in row.values())
        else None
    )
