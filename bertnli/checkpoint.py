"""Checkpoints to go on from: durable, atomic, verified, and independent of the number of ranks.

`checkpoints/step-00000200/` holds `state.safetensors` (fp32 weights and optimizer moments by parameter name) and
`checkpoint.json` (the step, where the run stands, the checksum). It is written aside, flushed and renamed, so what has
the name is whole; one that was damaged afterwards is recognised, named, and the one before it is taken.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from bertnli import tensorfiles
from bertnli.errors import RunError
from bertnli.files import digest, sync

_ABOUT = "checkpoint.json"
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """steps: optimizer steps done. state: as `engine.Engine.state` gives it. progress: what the loop keeps besides."""

    steps: int
    state: dict[str, Tensor]
    progress: dict[str, Any]


def write(folder: Path, steps: int, state: Mapping[str, Tensor], progress: Mapping[str, Any], keep: int) -> Path:
    """Make `folder/step-…` visible whole, then remove all but the `keep` newest; call it on one rank.

    Raises RunError, with the older checkpoints intact, if the disk is full or cannot be written.
    """
    final = folder / f"step-{steps:08d}"
    aside = folder / f".{final.name}.part"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensorfiles.save(state, aside / _STATE)
        about = {"steps": steps, "sha256": digest(aside / _STATE), "progress": dict(progress)}
        (aside / _ABOUT).write_text(json.dumps(about))
        for path in (aside / _STATE, aside / _ABOUT, aside):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        aside.rename(final)
        sync(folder)
    # safetensors reports a full disk as an error of its own
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
        raise RunError(
            f"checkpoint {final}: {'the disk is full' if full else error}",
            do="make room and give the same command again: it goes on from the last good checkpoint",
        ) from None
    for old in _checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; `warn` is told of each that is not. None if there is none."""
    for path in _checkpoints(folder):
        try:
            about = json.loads((path / _ABOUT).read_text())
            if digest(path / _STATE) != about["sha256"]:
                raise ValueError(f"{_STATE} does not have the checksum it was written with")
            return Checkpoint(about["steps"], safetensors.torch.load_file(path / _STATE), about["progress"])
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            warn(f"checkpoint {path} is damaged and left out: {error}")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)
