"""Ctrl-C, a scheduler's SIGTERM and a terminal's SIGHUP: noted until the state can be saved, or passed on to a child
process. SIGHUP, of a connection that broke, counts as SIGTERM everywhere, unless nohup has it ignored."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def not_ignored(numbers: Iterable[int]) -> list[int]:
    """Those that the parent did not set to be ignored. (nohup ignores SIGHUP; a script's `cmd &` ignores SIGINT.)"""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def meaning(number: int) -> signal.Signals:
    """SIGTERM for SIGHUP, and for SIGUSR1, which Slurm users often ask for; else the signal itself."""
    return signal.SIGTERM if number in (signal.SIGHUP, signal.SIGUSR1) else signal.Signals(number)


class StopRequest:
    """In the block SIGNALS are only noted in `signal`, by their meaning (0: none came). A second SIGINT interrupts at
    once."""

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM, *not_ignored([signal.SIGHUP])):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = meaning(number)


def exit_text(code: int) -> str:
    """How a process ended, from its return code as subprocess has it: below 0 the number of a signal."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    capture: bool = False,
    to_children: bool = False,
) -> tuple[int, str]:
    """Run a command to its end. Signals that this process gets are passed on to it: SIGINT, SIGTERM, and SIGHUP as
    SIGTERM. It also gets SIGTERM if this process is killed.

    to_children: pass signals on to the processes that the command has started; to itself only until there are any.
    Returns its exit code (128 + N if signal N ended it) and, with `capture`, its standard output.
    """
    import psutil

    # In a session of its own, so that Ctrl-C on a terminal reaches it only through us.
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
    )

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(psutil.Error):
            child = psutil.Process(process.pid)
            for receiver in (to_children and child.children()) or [child]:
                receiver.send_signal(meaning(number))

    previous = {number: signal.signal(number, pass_on) for number in not_ignored(SIGNALS)}
    try:
        output, _ = process.communicate()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    code = process.returncode
    return code if code >= 0 else 128 - code, output or ""


def die_with_parent(parent: int, number: int) -> None:
    """Call first in a child process: it gets this signal when `parent` ends. If `parent` is gone already, it exits."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
