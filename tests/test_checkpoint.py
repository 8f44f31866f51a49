"""Checkpoints: whole or not there, the damaged ones named, the older ones kept."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
import torch

from bertnli import checkpoint
from bertnli.errors import RunError


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight/a": torch.full((3, 4), value), "exp_avg/a": torch.full((3, 4), -value)}


def newest(folder):
    warnings: list[str] = []
    return checkpoint.newest(folder, warnings.append), warnings


def test_round_trip_and_keep(tmp_path):
    for steps in (5, 10, 15):
        checkpoint.write(tmp_path, steps, state(steps), {"pairs": steps * 2}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    found, warnings = newest(tmp_path)
    assert (found.steps, found.progress, warnings) == (15, {"pairs": 30}, [])
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state(15).items())
    assert newest(tmp_path / "none") == (None, [])


@pytest.mark.parametrize("damage", ["flip", "truncate", "no state", "no about", "empty about", "about of another kind"])
def test_a_damaged_one_is_named_and_the_one_before_taken(tmp_path, damage):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=2)
    path = checkpoint.write(tmp_path, 10, state(10), {}, keep=2)
    tensors, about = path / "state.safetensors", path / "checkpoint.json"
    if damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "truncate":
        os.truncate(tensors, 40)
    elif damage == "no state":
        tensors.unlink()
    elif damage == "no about":
        about.unlink()
    else:
        about.write_text("" if damage == "empty about" else json.dumps([1]))
    found, warnings = newest(tmp_path)
    assert found.steps == 5
    assert len(warnings) == 1 and "step-00000010 is damaged" in warnings[0]


def test_half_written_ones_do_not_count(tmp_path):
    (tmp_path / ".step-00000007.part").mkdir()
    assert newest(tmp_path) == (None, [])


@pytest.mark.parametrize("fails", ["save_file", "rename"])
def test_a_full_disk_keeps_the_last_good_one(tmp_path, monkeypatch, fails):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = checkpoint.safetensors.torch if fails == "save_file" else checkpoint.Path
    monkeypatch.setattr(target, fails, full)
    with pytest.raises(RunError, match="the disk is full; make room and give the same command again"):
        checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    assert newest(tmp_path)[0].steps == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        path = checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}
