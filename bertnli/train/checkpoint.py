"""Checkpoints to go on from: durable, atomic, verified, and independent of the number of ranks.

`checkpoints/step-00000200/` holds `state.safetensors` (fp32 weights and optimizer moments by parameter name),
`checkpoint.json` (the step, where the run stands) and `SHA256SUMS` of both. It is written aside, flushed, read back and
renamed, so what has the name is whole; one that was damaged afterwards is recognised, named, and the one before it is
taken. `Saver` does this while training goes on.
"""

from __future__ import annotations

import errno
import json
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
_GOES_ON = "give the same command again: it goes on from the last good checkpoint"
_MAKE_ROOM = f"make room and {_GOES_ON}"


@dataclass(frozen=True)
class Checkpoint:
    """steps: optimizer steps done. state: as `engine.Engine.state` gives it. progress: what the loop keeps besides.

    sha256: of the state's file."""

    steps: int
    state: dict[str, Tensor]
    progress: dict[str, Any]
    sha256: str


class Saver:
    """Writes checkpoints into `folder` in a thread of its own, one at a time; on one rank, as a context manager.

    One being written keeps its copy of the state in memory: `wait` before the next is made, and there is one at most.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(
        self, steps: int, state: Mapping[str, Tensor], progress: Mapping[str, Any], also_keep: int | None = None
    ) -> None:
        """Start to write `state`, CPU tensors that nobody changes any more, when the one before is done; see `write`.

        Raises the RunError of the one before.
        """
        self.wait()
        self._writing = self._thread.submit(write, self._folder, steps, state, dict(progress), self._keep, also_keep)

    def wait(self) -> None:
        """Return when what was given to `save` is on disk. Raises RunError, as `write` does, if it is not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Finish the save under way; its own failure does not hide an `error` that ends the loop."""
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
    """Make `folder/step-…` visible whole, then remove all but the `keep` newest and that of step `also_keep`.

    Call it on one rank.

    Raises RunError, with the older checkpoints intact, if the disk is full or cannot be written.
    """
    final = step_folder(folder, steps)
    try:
        for leftover in folder.glob(".step-*"):  # of a run that was killed
            shutil.rmtree(leftover)
        with new_folder(final, replace=True) as partial:  # it may replace a damaged one of the same step
            _check_room(final, sum(tensor.nbytes for tensor in state.values()))
            _fill(partial, state, json.dumps({"steps": steps, "progress": dict(progress)}))
        sync(folder.parent)
    # safetensors reports a full disk as an error of its own
    except (OSError, safetensors.SafetensorError) as error:
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
        if full:
            raise RunError(f"checkpoint {final}: the disk is full", do=_MAKE_ROOM) from None
        raise RunError(f"checkpoint {final}: {error}", do=f"see to that disk and its rights, and {_GOES_ON}") from None
    # One of a later step was found damaged when the run went on from an earlier one: it must not count as the newest.
    kept = {*[step for step in steps_in(folder) if step <= steps][-keep:], also_keep}
    for step in steps_in(folder):
        if step not in kept:
            shutil.rmtree(step_folder(folder, step), ignore_errors=True)
    return final


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; `warn` is told of each that is not. None if there is none."""
    for path in (step_folder(folder, step) for step in reversed(steps_in(folder))):
        try:
            return _read(path)
        except (OSError, ValueError) as error:
            warn(f"checkpoint {path} is damaged and left out: {error}")
    return None


def read(folder: Path, steps: int) -> Checkpoint:
    """The checkpoint of one step. Raises RunError if it is damaged or not there."""
    path = step_folder(folder, steps)
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"checkpoint {path} cannot be read: {error}",
            do="take another checkpoint, or start the run anew in another output",
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


def _fill(aside: Path, state: Mapping[str, Tensor], about: str) -> None:
    """Write a checkpoint's files and flush them, with the checksums of what the disk gives back."""
    tensor_files.save(state, aside / _STATE)
    (aside / _ABOUT).write_text(about)
    for name in (_STATE, _ABOUT):
        sync(aside / name)
        _forget(aside / name)
    (aside / _SUMS).write_text(_checksums(aside))
    if not _holds(aside / _STATE, state) or (aside / _ABOUT).read_text() != about:
        raise OSError(errno.EIO, "what the disk gives back is not what was written")


def _checksums(folder: Path) -> str:
    """As `sha256sum` prints them."""
    return "".join(f"{digest(folder / name)}  {name}\n" for name in (_STATE, _ABOUT))


def _forget(path: Path) -> None:
    """Have a flushed file dropped from the page cache, so that what is read next is what the disk holds."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _holds(path: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether the file has these tensors, equal to the bit; one is read at a time, as the whole is large.

    By numpy: torch would start threads of its own in the saver's, beside those of training.
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
    """steps: optimizer steps done. pairs, seconds: trained on, in steps alone, start-up and evaluation apart.

    best_accuracy, best_step: of the best evaluation so far (step 0: none). not_better: evaluations in a row since.
    inputs: sha256 of the weights that it started from and of its data, by their keys in the run file.
    """

    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_step: int = 0
    not_better: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: int, progress: Mapping[str, Any]) -> TrainerState:
        """From a checkpoint."""
        return cls(**{**progress, "steps": steps})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def record_evaluation(self, accuracy: float) -> bool:
        """Take note of an evaluation after this step; true if it is the best so far."""
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step, self.not_better = accuracy, self.steps, 0
            return True
        self.not_better += 1
        return False
