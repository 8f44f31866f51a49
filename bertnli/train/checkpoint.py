"""Checkpoints to resume from: durable, atomic, verified, and independent of the number of ranks.

`checkpoints/step-00000200/` contains `state.safetensors` (fp32 weights and optimizer moments by parameter name),
`checkpoint.json` (the step, and the state of the training loop) and `SHA256SUMS` of both. It is written to a temporary
folder, flushed, read back and renamed, so a folder with the final name is complete. A checkpoint that was damaged later
is recognised and reported, and the one before it is used. `Saver` writes in the background while training goes on.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from bertnli.common.errors import RunError
from bertnli.common.files import digest, new_folder, sync
from bertnli.model import tensor_files
from bertnli.run.folder import step_folder, steps_in

_STATE, _ABOUT, _SUMS = "state.safetensors", "checkpoint.json", "SHA256SUMS"
_RESUME = "give the same command again: it continues from the last good checkpoint"
_MAKE_ROOM = f"make room and {_RESUME}"


@dataclass(frozen=True)
class Checkpoint:
    """steps: optimizer steps done. state: as `engine.Engine.state` returns it. progress: the training loop's state.

    sha256: of the state's file."""

    steps: int
    state: dict[str, Tensor]
    progress: dict[str, Any]
    sha256: str


class Saver:
    """Writes checkpoints into `folder` in a background thread, one at a time; on one rank, as a context manager.

    While a checkpoint is written, its copy of the state stays in memory. Call `wait` before making the next copy, and
    there is never more than one.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(
        self, steps: int, state: Mapping[str, Tensor], progress: Mapping[str, Any], also_keep: int | None = None
    ) -> None:
        """Start writing `state` once the checkpoint before is written; see `write`. Nobody may change its tensors.

        Raises the RunError of the checkpoint before, if that failed.
        """
        self.wait()
        self._writing = self._thread.submit(write, self._folder, steps, state, dict(progress), self._keep, also_keep)

    def wait(self) -> None:
        """Return when the last `save` is on disk. Raises RunError, as `write` does, if it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Finish the save in progress. If it fails, an `error` that ends the loop is still the one raised."""
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(str(failed))
        finally:
            self._thread.shutdown()


def write(
    folder: Path,
    steps: int,
    state: Mapping[str, Tensor],
    progress: Mapping[str, Any],
    keep: int,
    also_keep: int | None = None,
) -> Path:
    """Write `folder/step-…` atomically, then remove all but the `keep` newest and that of step `also_keep`.

    Call it on one rank. Raises RunError, with the older checkpoints intact, if the disk is full or cannot be written.
    """
    final = step_folder(folder, steps)
    try:
        for leftover in folder.glob(".step-*"):  # of a run that was killed
            shutil.rmtree(leftover)
        with new_folder(final, replace=True) as partial:  # it may replace a damaged one of the same step
            _check_room(final, sum(tensor.nbytes for tensor in state.values()))
            _fill(partial, state, json.dumps({"steps": steps, "progress": dict(progress)}))
        sync(folder.parent)
    # safetensors reports a full disk with its own error class
    except (OSError, safetensors.SafetensorError) as error:
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
        if full:
            raise RunError(f"checkpoint {final}: the disk is full", do=_MAKE_ROOM) from None
        raise RunError(
            f"checkpoint {final}: {error}", do=f"check that disk and its permissions, and {_RESUME}"
        ) from None
    # A checkpoint of a later step may be left, damaged, if the run resumed from an earlier one: it is not the newest.
    kept = {*[step for step in steps_in(folder) if step <= steps][-keep:], also_keep}
    for step in steps_in(folder):
        if step not in kept:
            shutil.rmtree(step_folder(folder, step), ignore_errors=True)
    return final


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest undamaged checkpoint, or None. `warn` is called with a line for each damaged one."""
    for path in (step_folder(folder, step) for step in reversed(steps_in(folder))):
        try:
            return _read(path)
        except (OSError, ValueError) as error:
            warn(f"checkpoint {path} is damaged and ignored: {error}")
    return None


def read(folder: Path, steps: int) -> Checkpoint:
    """The checkpoint of one step. Raises RunError if it is damaged or does not exist."""
    path = step_folder(folder, steps)
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"checkpoint {path} cannot be read: {error}",
            do="take another checkpoint, or start a new run in another output",
        ) from None


def _read(path: Path) -> Checkpoint:
    sums = _checksums(path)
    if (path / _SUMS).read_text() != sums:
        raise ValueError(f"its files are not those that {_SUMS} in it describes")
    about = json.loads((path / _ABOUT).read_text())
    return Checkpoint(about["steps"], safetensors.torch.load_file(path / _STATE), about["progress"], sums.split()[0])


def _check_room(final: Path, needed: int) -> None:
    disk = shutil.disk_usage(final.parent)
    if disk.total and disk.free < needed:  # some network file systems say 0 of 0
        raise RunError(
            f"checkpoint {final}: the disk is full, nothing was written",
            found=f"{disk.free:,} bytes free",
            expected=f"{needed:,} or more",
            do=_MAKE_ROOM,
        )


def _fill(folder: Path, state: Mapping[str, Tensor], about: str) -> None:
    """Write a checkpoint's files, flush them, and read them back.

    A disk can report success and store something else. So the flushed files are dropped from the page cache, the
    checksums are computed from what the disk returns, and that is compared with what was to be written.
    """
    tensor_files.save(state, folder / _STATE)
    (folder / _ABOUT).write_text(about)
    for name in (_STATE, _ABOUT):
        sync(folder / name)
        _drop_from_page_cache(folder / name)
    (folder / _SUMS).write_text(_checksums(folder))
    if not _equals(folder / _STATE, state) or (folder / _ABOUT).read_text() != about:
        raise OSError(errno.EIO, "what the disk returns is not what was written")


def _checksums(folder: Path) -> str:
    """SHA-256 of the two files, in the format of `sha256sum`."""
    return "".join(f"{digest(folder / name)}  {name}\n" for name in (_STATE, _ABOUT))


def _drop_from_page_cache(path: Path) -> None:
    """So that the next read of a flushed file comes from the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _equals(path: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether the file contains exactly these tensors, bit for bit. It reads one at a time, to save memory.

    It compares with numpy, because torch would start more threads beside those of training.
    """

    def parts(tensor: Tensor) -> tuple[object, np.ndarray]:
        return (tensor.dtype, tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy()

    def same(one: Tensor, other: Tensor) -> bool:
        (about_one, bits_of_one), (about_other, bits_of_other) = parts(one), parts(other)
        return about_one == about_other and np.array_equal(bits_of_one, bits_of_other)

    with safetensors.safe_open(path, framework="pt") as file:
        return set(file.keys()) == set(state) and all(same(file.get_tensor(name), state[name]) for name in state)


@dataclass
class TrainerState:
    """What the training loop keeps from step to step, besides the engine's state; in a checkpoint it is `progress`.

    steps: optimizer steps done. pairs, seconds: trained so far; seconds of training steps alone, without start-up and
    evaluation. best_figure, best_step: of the best evaluation so far (step 0: none yet). not_better:
    evaluations in a row that were not better. inputs: sha256 of the starting weights and the data, by their keys in
    the run file. fitting_tokens: of a micro-batch, if they were found by the GPU's memory; otherwise 0.
    """

    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0
    best_figure: float = 0.0
    best_step: int = 0
    not_better: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    fitting_tokens: int = 0

    @classmethod
    def of(cls, steps: int, progress: Mapping[str, Any]) -> TrainerState:
        """From a checkpoint."""
        now = {"best_accuracy": "best_figure"}  # the names of checkpoints that are older
        return cls(**{now.get(name, name): value for name, value in progress.items()} | {"steps": steps})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def record_evaluation(self, figure: float, lower_is_better: bool = False) -> bool:
        """Record an evaluation after this step by the figure that decides. Returns whether it is the best so far; NaN
        is not."""
        better = figure < self.best_figure if lower_is_better else figure > self.best_figure
        if better or (self.best_step == 0 and not math.isnan(figure)):
            self.best_figure, self.best_step, self.not_better = figure, self.steps, 0
            return True
        self.not_better += 1
        return False
