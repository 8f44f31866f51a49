"""Checkpoints on a disk that is really full: a small one, mounted for the test; needs root."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch

from bertnli.common.errors import RunError
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Saver

pytestmark = pytest.mark.system

MIB = 1 << 20


def state(mib: int) -> dict[str, torch.Tensor]:
    return {"weight/a": torch.arange(mib * MIB // 4, dtype=torch.float32)}


@pytest.fixture
def small_disk(tmp_path):
    """8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_full_disk_stops_with_the_last_good_one_intact(small_disk, monkeypatch, seen_before):
    folder = small_disk / "checkpoints"
    if not seen_before:  # other files fill the disk while the checkpoint is written
        monkeypatch.setattr(checkpoint, "_check_room", lambda *_: None)
    message = "found 5,.* bytes free; expected 6,291,456 or more" if seen_before else "the disk is full; make room"
    with pytest.raises(RunError, match=message), Saver(folder, keep=1) as saver:
        saver.save(5, state(3), {})
        saver.save(10, state(6), {})
    assert names(folder) == ["step-00000005"]
    assert shutil.disk_usage(small_disk).free > 4 * MIB  # the part is removed
    kept = checkpoint.newest(folder, pytest.fail)
    assert kept is not None and kept.steps == 5 and torch.equal(kept.state["weight/a"], state(3)["weight/a"])
    del kept  # the file is mapped: the disk could not be unmounted

    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)  # the user made room
    with Saver(folder, keep=1) as saver:
        saver.save(10, state(6), {})
    assert names(folder) == ["step-00000010"]
