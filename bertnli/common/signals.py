"""Ctrl-C and a scheduler's SIGTERM: noted until the state can be saved, or passed on to a child process."""

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

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def not_ignored(numbers: Iterable[int]) -> list[int]:
    """Those that the parent did not set to be ignored. (nohup ignores SIGHUP; a script's `cmd &` ignores SIGINT.)"""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


class StopRequest:
    """In the block SIGINT and SIGTERM are only noted in `signal` (0: none came). A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


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
                receiver.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    previous = {number: signal.signal(number, pass_on) for number in not_ignored((*SIGNALS, signal.SIGHUP))}
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
