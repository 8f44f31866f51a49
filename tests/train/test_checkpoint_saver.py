"""Checkpoints written while training goes on, and processes killed in the middle of it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import random
import shutil
import sys
import threading
import time
import weakref

import pytest
import safetensors.torch
import torch

from bertnli.common import files
from bertnli.common.errors import RunError
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Saver
from tests.support.runs import fork
from tests.train.test_checkpoint import FILES, FULL_FOR_SAFETENSORS, names, newest, refuse, state


class Gate:
    """Holds every write until it is opened, and notes what happens."""

    def __init__(self, monkeypatch):
        self.began, self.opened, self.events = threading.Event(), threading.Event(), []
        write = checkpoint.write

        def held(folder, steps, *arguments):
            self.began.set()
            assert self.opened.wait(10)
            written = write(folder, steps, *arguments)
            self.events.append(f"written {steps}")
            return written

        monkeypatch.setattr(checkpoint, "write", held)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with Saver(tmp_path, keep=2) as saver:
        saver.save(5, state(5), {"pairs": 10})
        assert gate.began.wait(60) and not gate.opened.is_set()
        assert newest(tmp_path) == (None, [])
        gate.opened.set()
        saver.wait()
        assert newest(tmp_path)[0].steps == 5
        saver.save(10, state(10), {"pairs": 20})
    assert newest(tmp_path)[0].progress == {"pairs": 20}


def test_one_at_a_time(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with Saver(tmp_path, keep=9) as saver:

        def second():
            saver.save(10, state(10), {})
            gate.events.append("second taken")

        saver.save(5, state(5), {})
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive(), "took a second state while the first was being written"
        gate.opened.set()
        thread.join(60)
        saver.wait()
    assert gate.events.index("written 5") < gate.events.index("second taken")
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


def test_the_same_bytes_as_without_a_thread(tmp_path):
    checkpoint.write(tmp_path / "plain", 5, state(5), {"seconds": 0.1}, keep=1)
    progress = {"seconds": 0.1}
    with Saver(tmp_path / "overlapped", keep=1) as saver:
        saver.save(5, state(5), progress)
        progress["seconds"] = 0.2  # the loop goes on
    for name in FILES:
        plain, overlapped = (tmp_path / kind / "step-00000005" / name for kind in ("plain", "overlapped"))
        assert plain.read_bytes() == overlapped.read_bytes()


def test_the_state_is_released_when_written(tmp_path):
    kept = state(5)
    alive = weakref.ref(kept["weight/a"])
    with Saver(tmp_path, keep=1) as saver:
        saver.save(5, kept, {})
        del kept
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("then", ["save", "wait", "exit"])
def test_a_failed_save_is_an_error_of_the_loop(tmp_path, monkeypatch, then):
    checkpoint.write(tmp_path, 5, state(5), {}, keep=1)
    with monkeypatch.context() as patch:
        refuse(patch, safetensors.torch, "save_file", FULL_FOR_SAFETENSORS)
        with pytest.raises(RunError, match="step-00000010: the disk is full"), Saver(tmp_path, keep=1) as saver:
            saver.save(10, state(10), {})
            if then == "save":
                saver.save(15, state(15), {})
            elif then == "wait":
                saver.wait()
            if then != "exit":
                pytest.fail("the failure did not show")
    assert newest(tmp_path)[0].steps == 5
    assert names(tmp_path) == ["step-00000005"]
    with Saver(tmp_path, keep=1) as saver:  # there is room again
        saver.save(10, state(10), {})
    assert newest(tmp_path)[0].steps == 10


def test_a_failure_is_reported_once(tmp_path, monkeypatch):
    with Saver(tmp_path, keep=1) as saver:
        with monkeypatch.context() as patch:
            refuse(patch, safetensors.torch, "save_file", FULL_FOR_SAFETENSORS)
            saver.save(10, state(10), {})
            with pytest.raises(RunError):
                saver.wait()
        saver.wait()
        saver.save(15, state(15), {})
    assert newest(tmp_path)[0].steps == 15


def test_a_loop_that_fails_still_finishes_the_save(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with pytest.raises(ZeroDivisionError), Saver(tmp_path, keep=1) as saver:
        saver.save(5, state(5), {})
        threading.Timer(0.1, gate.opened.set).start()
        raise ZeroDivisionError
    assert newest(tmp_path)[0].steps == 5


def test_a_failed_save_does_not_hide_why_the_loop_failed(tmp_path, monkeypatch):
    refuse(monkeypatch, safetensors.torch, "save_file", FULL_FOR_SAFETENSORS)
    with pytest.raises(ZeroDivisionError) as raised, Saver(tmp_path, keep=1) as saver:
        saver.save(5, state(5), {})
        raise ZeroDivisionError
    assert "step-00000005: the disk is full" in raised.value.__notes__[0]


def test_after_whichever_line_it_is_killed_there_is_a_complete_one(tmp_path):
    """The folder is copied after each line that writes: what a kill would leave there."""
    folder, copies = tmp_path / "checkpoints", tmp_path / "copies"
    checkpoint.write(folder, 5, state(5), {}, keep=1)
    writing = {checkpoint.__file__, checkpoint.tensor_files.__file__, files.__file__}

    def copy(frame, event, _argument):
        if frame.f_code.co_filename not in writing:
            return None
        if event == "line":
            shutil.copytree(folder, copies / f"{len(list(copies.iterdir())):04d}")
        return copy

    copies.mkdir()
    sys.settrace(copy)
    try:
        checkpoint.write(folder, 10, state(10), {}, keep=1)
    finally:
        sys.settrace(None)
    last = []
    for killed in sorted(copies.iterdir()):
        found, warnings = newest(killed)
        assert warnings == []
        last.append(found.steps)
        checkpoint.write(killed, 10, state(10), {}, keep=1)
        assert names(killed) == ["step-00000010"]
    assert last == sorted(last) and set(last) == {5, 10} and len(last) > 60


def save_for_ever(folder, keep: int, first: int, report) -> None:
    with Saver(folder, keep) as saver:
        for steps in range(first, 1_000_000):
            saver.save(steps, state(steps, size=200_000), {"pairs": 2 * steps})
            if steps > first:
                report.send(steps - 1)  # `save` waited for it


def test_whenever_it_is_killed_the_newest_is_complete_and_as_new_as_reported(tmp_path):
    """SIGKILL, 20 times, at random moments of checkpoints written back to back; every other time during a write."""
    moments, folder, first, halves = random.Random(0), tmp_path / "checkpoints", 1, 0
    for number in range(20):
        receive, report = multiprocessing.get_context("forkserver").Pipe(duplex=False)
        process = fork(save_for_ever, folder, 2, first, report)
        report.close()
        reported = receive.recv()
        time.sleep(moments.uniform(0, 0.02))
        while number % 2 and not any(folder.glob(".step-*.partial")):
            pass
        process.kill()
        process.join()
        while receive.poll():
            try:
                reported = receive.recv()
            except EOFError:
                break
        halves += any(folder.glob(".step-*.partial"))
        found, warnings = newest(folder)
        assert warnings == []
        assert reported <= found.steps <= reported + 2
        assert found.progress == {"pairs": 2 * found.steps}
        for name, tensor in state(found.steps, size=200_000).items():
            assert torch.equal(found.state[name], tensor) or "nan" in name
        assert json.loads((folder / f"step-{found.steps:08d}" / "checkpoint.json").read_text())["steps"] == found.steps
        assert len(list(folder.glob("step-*"))) <= 3
        first = found.steps + 1
    assert halves, "none of the kills fell into a write"
