"""Locks that another process may hold for long; the operating system frees them when that process dies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bertnli.common import heartbeat


def acquire(
    lock: FileLock, waiting: str, say: Callable[[str], None] = lambda line: None, patience: float = math.inf
) -> None:
    """Take the lock; waiting for it is no standstill. `say` is told `waiting`, once, if there is another holder.

    Raises Timeout if it is still held after `patience` seconds.
    """
    until = time.monotonic() + patience
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(waiting)
    while not lock.is_locked:
        heartbeat.beat(waiting)
        try:
            lock.acquire(timeout=max(0.0, min(1.0, until - time.monotonic())))
        except Timeout:
            if time.monotonic() >= until:
                raise


@contextmanager
def held(path: Path, waiting: str, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """The lock file at `path`, as `acquire` takes it."""
    lock = FileLock(path)
    acquire(lock, waiting, say)
    try:
        yield
    finally:
        lock.release()
