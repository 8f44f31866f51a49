"""Which error the user is told: a signal and too little memory come before what libraries make of them."""

from __future__ import annotations

import errno
import signal

from bertnli.common.errors import InputError, Interrupted, RunError
from bertnli.common.for_user import as_told


def after(first: BaseException, then: BaseException) -> BaseException:
    """`then`, as it is raised while `first` is handled."""
    try:
        try:
            raise first
        except BaseException:
            raise then from None
    except BaseException as error:
        return error


def test_a_signal_in_a_librarys_start_is_a_signal():
    stop = Interrupted(signal.SIGTERM, "interrupted")
    assert as_told(stop) is stop
    assert as_told(after(stop, ImportError("initialization failed"))) is stop
    assert as_told(after(stop, InputError("model.onnx: damaged"))) is stop


def test_too_little_memory_is_not_damage():
    told = as_told(after(MemoryError(), InputError("model.onnx: damaged")))
    assert isinstance(told, RunError) and "too little memory" in str(told)


def test_an_error_of_ours_is_told_and_a_bug_is_not():
    error = InputError("row 3: empty")
    assert as_told(error) is error and as_told(after(KeyError("a"), error)) is error
    assert as_told(KeyError("a")) is None


def test_too_many_open_files_are_one_message():
    for error in (
        OSError(errno.EMFILE, "Too many open files", "bundle/config.json"),
        RuntimeError("gloo/transport/tcp/device.cc:186] rv != -1. Too many open files"),
        after(OSError(errno.EMFILE, "Too many open files"), InputError("bundle/config.json: cannot be read")),
    ):
        told = as_told(error)
        assert isinstance(told, RunError) and "(ulimit -n); raise it: ulimit -n 1024" in str(told)
    assert as_told(OSError(errno.EIO, "Input/output error")) is None
