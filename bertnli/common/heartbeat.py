"""A training process shows its watcher (watch/watcher.py) that it makes progress; without one, nothing happens here.

The watcher gives it the end of a pipe, named in the environment. A process that does not move for `stall_timeout`
seconds, while no other rank moves either, is ended; so whatever may take long calls `pulse` now and then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator

from bertnli.common.signals import end_with_parent

VARIABLE = "BERTNLI_PULSE"
"""FD:PID, the pipe's end and the watcher's process, in the environment of a process that is watched."""

_BEAT = 10.0  # seconds
_pipe: int | None = None


def begin() -> None:
    """In a watched process, before anything else: it dies with its watcher, and shows its stacks on SIGUSR1."""
    global _pipe
    if not watched():
        return
    _pipe, watcher = map(int, os.environ[VARIABLE].split(":"))
    os.set_blocking(_pipe, False)  # a watcher that is stopped holds nobody up
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    end_with_parent(watcher, signal.SIGKILL)


def watched() -> bool:
    """Whether this process is a training process under a watcher."""
    return VARIABLE in os.environ


def pulse(phase: str, *, waiting: bool = False) -> None:
    """`phase` has been reached, in a few words; `waiting` where only other ranks can hold this one up."""
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, f"{'waiting' if waiting else 'working'} {phase}\n".encode())


@contextlib.contextmanager
def beating(phase: str) -> Iterator[None]:
    """Around a library's call that may take long, and bounds by itself how long it waits: a pulse now and then."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT):
            pulse(phase)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
