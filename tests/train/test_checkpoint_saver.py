"""Checkpoints written while training goes on, and processes killed in the middle of it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
import weakref

import pytest
import safetensors.torch
import torch

from bertnli.common.errors import RunError
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Saver
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


def test_the_state_is_let_go_when_written(tmp_path):
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


def test_a_failure_is_told_once(tmp_path, monkeypatch):
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


def forks() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have torch imported already, from one that has no threads."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload([__name__])
    return start


def write_and_die(folder, lines: int) -> None:
    """Killed after so many lines of the writing, if it has as many."""
    left = lines

    def count(frame, event, _argument):
        nonlocal left
        if frame.f_code.co_filename not in (checkpoint.__file__, checkpoint.tensor_files.__file__):
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)
    checkpoint.write(folder, 10, state(10), {}, keep=1)


def test_after_whichever_line_it_is_killed_there_is_a_whole_one(tmp_path):
    start, folder, last = forks(), tmp_path / "checkpoints", []
    for lines in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint.write(folder, 5, state(5), {}, keep=1)
        process = start.Process(target=write_and_die, args=(folder, lines))
        process.start()
        process.join()
        found, warnings = newest(folder)
        assert warnings == []
        last.append(found.steps)
        if process.exitcode == 0:
            break
        checkpoint.write(folder, 10, state(10), {}, keep=1)
        assert names(folder) == ["step-00000010"]
    assert last == sorted(last) and set(last) == {5, 10} and process.exitcode == 0


def save_for_ever(folder, keep: int, first: int, report) -> None:
    with Saver(folder, keep) as saver:
        for steps in range(first, 1_000_000):
            saver.save(steps, state(steps, size=200_000), {"pairs": 2 * steps})
            if steps > first:
                report.send(steps - 1)  # `save` waited for it


def test_whenever_it_is_killed_the_newest_is_whole_and_as_new_as_was_said(tmp_path):
    """SIGKILL, 40 times, at random moments of checkpoints written back to back."""
    moments, start = random.Random(0), forks()
    folder, first, halves = tmp_path / "checkpoints", 1, 0
    for _ in range(40):
        receive, report = start.Pipe(duplex=False)
        process = start.Process(target=save_for_ever, args=(folder, 2, first, report))
        process.start()
        report.close()
        said = receive.recv()
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        while receive.poll():
            try:
                said = receive.recv()
            except EOFError:
                break
        halves += any(folder.glob(".step-*.partial"))
        found, warnings = newest(folder)
        assert warnings == []
        assert said <= found.steps <= said + 2
        assert found.progress == {"pairs": 2 * found.steps}
        for name, tensor in state(found.steps, size=200_000).items():
            assert torch.equal(found.state[name], tensor) or "nan" in name
        assert json.loads((folder / f"step-{found.steps:08d}" / "checkpoint.json").read_text())["steps"] == found.steps
        assert len(list(folder.glob("step-*"))) <= 3
        first = found.steps + 1
    assert halves > 5, "too few of the kills fell into a write to mean anything"
