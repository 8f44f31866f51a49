"""Checkpoints are complete or do not exist; damaged ones are reported, older ones kept."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bertnli.common import files
from bertnli.common.errors import RunError
from bertnli.train import checkpoint

FILES = ["SHA256SUMS", "checkpoint.json", "state.safetensors"]


def state(value: float, size: int = 12) -> dict[str, Tensor]:
    # From numpy: what torch fills with several threads cannot be made in a forked process.
    weights = torch.from_numpy(np.full(size, value, dtype=np.float32))
    return {"weight/a": weights, "exp_avg/a": torch.from_numpy(-weights.numpy()), "exp_avg/nan": torch.tensor(np.nan)}


def newest(folder):
    warnings: list[str] = []
    return checkpoint.newest(folder, warnings.append), warnings


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refuse(monkeypatch, where, name: str, error: Exception):
    def refused(*_arguments, **_options):
        raise error

    monkeypatch.setattr(where, name, refused)


def test_round_trip_and_keep(tmp_path):
    for steps in (5, 10, 15):
        path = checkpoint.write(tmp_path, steps, state(steps), {"pairs": steps * 2}, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    assert names(path) == FILES
    found, warnings = newest(tmp_path)
    assert (found.steps, found.progress, warnings) == (15, {"pairs": 30}, [])
    assert found.state.keys() == state(15).keys()
    assert all(torch.equal(found.state[name], state(15)[name]) for name in ("weight/a", "exp_avg/a"))
    assert newest(tmp_path / "none") == (None, [])
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, check=True)


@pytest.mark.parametrize("damage", ["truncate", "no state", "no about", "no sums", "empty sums", "half sums"])
def test_a_damaged_one_is_reported_and_the_one_before_used(tmp_path, damage):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=2)
    path = checkpoint.write(tmp_path, 10, state(10), {}, keep=2)
    tensors, about, sums = path / "state.safetensors", path / "checkpoint.json", path / "SHA256SUMS"
    if damage == "truncate":
        os.truncate(tensors, 40)
    elif damage.startswith("no "):
        {"no state": tensors, "no about": about, "no sums": sums}[damage].unlink()
    else:
        sums.write_text("" if damage == "empty sums" else sums.read_text().splitlines(keepends=True)[0])
    found, warnings = newest(tmp_path)
    assert found.steps == 5
    assert len(warnings) == 1 and "step-00000010 is damaged" in warnings[0]


def test_any_flipped_byte_is_damage(tmp_path):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=2)
    path = checkpoint.write(tmp_path, 10, state(10), {"pairs": 123}, keep=2)
    for name in FILES:
        whole = (path / name).read_bytes()
        for place in range(len(whole)):
            (path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert newest(tmp_path)[0].steps == 5, (name, place)
        (path / name).write_bytes(whole)
    assert newest(tmp_path)[0].steps == 10


def test_one_that_cannot_be_read_is_skipped(tmp_path, monkeypatch):
    for steps in (5, 10):
        checkpoint.write(tmp_path, steps, state(steps), {}, keep=2)
    read = checkpoint.digest

    def digest(path):
        if path.parent.name == "step-00000010":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(checkpoint, "digest", digest)
    found, warnings = newest(tmp_path)
    assert found.steps == 5 and "Input/output error" in warnings[0]


def test_a_damaged_later_one_does_not_count_as_the_newest_to_keep(tmp_path):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=2)
    damaged = checkpoint.write(tmp_path, 10, state(10), {}, keep=2)
    (damaged / "checkpoint.json").unlink()
    (tmp_path / "step-by-step").mkdir()  # another user's
    checkpoint.write(tmp_path, 7, state(7), {}, keep=1)  # after going on from step 5
    assert names(tmp_path) == ["step-00000007", "step-by-step"]


def test_half_written_ones_do_not_count_and_are_removed(tmp_path):
    for left in (".step-00000007.partial", ".step-00000010.partial", ".step-00000010.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "state.safetensors").write_bytes(b"half")
    assert newest(tmp_path) == (None, [])
    checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    assert names(tmp_path) == ["step-00000010"]
    assert newest(tmp_path)[0].steps == 10


def test_flushed_before_it_is_visible_and_visible_before_an_older_one_goes(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    events: list[str] = []

    def note(where, name: str, word: str):
        does = getattr(where, name)

        def noting(path, *arguments, **options):
            events.append(f"{word} {path.relative_to(tmp_path.parent)}")
            return does(path, *arguments, **options)

        monkeypatch.setattr(where, name, noting)

    note(checkpoint, "sync", "flush")
    note(files, "sync", "flush")
    note(Path, "rename", "rename")
    note(checkpoint.shutil, "rmtree", "remove")
    checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    folder, partial = tmp_path.name, f"{tmp_path.name}/.step-00000010.partial"
    renamed = events.index(f"rename {partial}")
    parts = ("", "/state.safetensors", "/checkpoint.json", "/SHA256SUMS")
    assert {f"flush {partial}{part}" for part in parts} <= set(events[:renamed])
    assert [event for event in events[renamed:] if "/.step" not in event] == [
        f"flush {folder}",
        "flush .",
        f"remove {folder}/step-00000005",
    ]


def test_what_the_disk_did_not_keep_is_recognised(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    save = checkpoint.tensor_files.save

    def save_badly(tensors, path):
        save(tensors, path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(checkpoint.tensor_files, "save", save_badly)
    with pytest.raises(RunError, match=r"step-00000010: .*what the disk returns is not what was written"):
        checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    assert names(tmp_path) == ["step-00000005"]


FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_FOR_SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "fails", "error"),
    [(safetensors.torch, "save_file", FULL_FOR_SAFETENSORS), (Path, "write_text", FULL), (Path, "rename", FULL)],
)
def test_a_disk_that_fills_up_keeps_the_last_good_one(tmp_path, monkeypatch, where, fails, error):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    refuse(monkeypatch, where, fails, error)
    with pytest.raises(RunError, match="the disk is full; make room and give the same command again"):
        checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    assert newest(tmp_path)[0].steps == 5
    assert names(tmp_path) == ["step-00000005"]


def test_a_write_that_the_kernel_refuses_keeps_the_last_good_one(tmp_path):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RunError, match=r"step-00000010: .*File too large"):
            checkpoint.write(tmp_path, 10, state(10, size=100_000), {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest(tmp_path)[0].steps == 5
    assert names(tmp_path) == ["step-00000005"]


def test_too_little_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    room = type(shutil.disk_usage(tmp_path))(10_000, 8_901, 1_099)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: room)
    monkeypatch.setattr(checkpoint.tensor_files, "save", lambda *_: pytest.fail("written all the same"))
    message = "the disk is full, nothing was written; found 1,099 bytes free; expected 8,004 or more; make room"
    with pytest.raises(RunError, match=message):
        checkpoint.write(tmp_path, 10, state(10, size=1000), {}, keep=1)
    assert names(tmp_path) == ["step-00000005"]


def test_a_file_system_that_reports_no_sizes_is_written_to(tmp_path, monkeypatch):
    unknown = type(shutil.disk_usage(tmp_path))(0, 0, 0)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: unknown)
    checkpoint.write(tmp_path, 10, state(10), {}, keep=1)
    assert newest(tmp_path)[0].steps == 10


def test_a_folder_that_cannot_be_flushed_is_no_error_but_a_failing_disk_is(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "fsync", OSError(errno.EINVAL, "Invalid argument"))
    checkpoint.sync(tmp_path)
    refuse(monkeypatch, os, "fsync", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        checkpoint.sync(tmp_path)


def test_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        path = checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}
