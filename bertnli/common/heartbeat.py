"""Heartbeats: a training process shows its watcher (watch/watcher.py) that it makes progress.

The watcher gives it the writing end of a pipe, named in the environment. A process without a watcher sends nothing.
When no rank has sent a heartbeat for `stall_timeout` seconds, the job is ended as stalled; so code that may run for
long calls `beat` now and then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator

from bertnli.common.printable import printable
from bertnli.common.signals import die_with_parent

VARIABLE = "BERTNLI_HEARTBEAT"
"""FD:PID, the pipe's writing end and the watcher's process id, in the environment of a watched process."""

_INTERVAL = 10.0  # seconds
_pipe: int | None = None


def start() -> None:
    """Call first in a process: if it is watched, it dies with its watcher and prints its stacks on SIGUSR1."""
    global _pipe
    if not watched():
        return
    _pipe, watcher = map(int, os.environ[VARIABLE].split(":"))
    os.set_blocking(_pipe, False)  # training never waits for a watcher that does not read
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    die_with_parent(watcher, signal.SIGKILL)


def watched() -> bool:
    """Whether this is a training process under a watcher."""
    return VARIABLE in os.environ


def beat(phase: str, *, waiting: bool = False) -> None:
    """Send a heartbeat: the process has reached `phase` (a few words). `waiting`: only other ranks can delay it."""
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, f"{'waiting' if waiting else 'working'} {printable(phase, 200)}\n".encode())


@contextlib.contextmanager
def periodic(phase: str) -> Iterator[None]:
    """Send heartbeats from a thread while a library's long call runs; only for calls that have a time limit."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(_INTERVAL):
            beat(phase)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
