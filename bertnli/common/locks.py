"""File locks that another process may hold for long. The operating system releases them when that process dies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bertnli.common import heartbeat

_INTERVAL = 1.0  # seconds between two heartbeats of a process that waits


def acquire(
    lock: FileLock, waiting: str, say: Callable[[str], None] = lambda line: None, timeout: float = math.inf
) -> None:
    """Take the lock. While it waits it sends heartbeats, so that the watcher does not take the wait for a stall.

    If another process holds the lock, `say` is called once with `waiting`. Raises Timeout after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(waiting)
    while not lock.is_locked:
        heartbeat.beat(waiting)
        try:
            lock.acquire(timeout=max(0.0, min(_INTERVAL, deadline - time.monotonic())))
        except Timeout:
            if time.monotonic() >= deadline:
                raise


@contextmanager
def held(path: Path, waiting: str, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the lock file at `path` within the block; see `acquire`."""
    lock = FileLock(path)
    acquire(lock, waiting, say)
    try:
        yield
    finally:
        lock.release()
