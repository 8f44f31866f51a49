"""File locks (flock) that another process may hold for long. The operating system releases them when it dies.

A file system without locks, as some network file systems are, has one rule everywhere: the work goes on, and a line
says that nothing keeps two commands apart there.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bertnli.common import heartbeat
from bertnli.common.progress import say as say_line

_INTERVAL = 1.0  # seconds between two heartbeats of a process that waits
_POLL = 0.05  # seconds between two tries
# EBADF: NFS locks only what is open for writing, which a folder never is.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_told: set[int] = set()  # file systems, by their device number, of which the user was told


def try_lock(descriptor: int) -> OSError | None:
    """Lock an open file or folder, without waiting. It is released when it is closed, also by a process's death.

    Returns the error of a file system without locks, else None. Raises BlockingIOError if another process has the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return error
    return None


def lock_descriptor(descriptor: int, path: Path) -> None:
    """Lock an open file as `try_lock` does. On a file system without locks it returns, and the user is told once."""
    error = try_lock(descriptor)
    device = os.fstat(descriptor).st_dev
    if error is not None and device not in _told:
        _told.add(device)
        say_line(
            f"{path}: its file system has no locks ({error.strerror}); bertnli continues, but nothing keeps a second "
            "command away from the same files: start only one"
        )


class Lock:
    """The lock of a file, which is made if needed."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = -1

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    def acquire(self, waiting: str, say: Callable[[str], None] = lambda line: None, timeout: float = math.inf) -> None:
        """Take the lock. While it waits it sends heartbeats, so that the watcher does not take the wait for a stall.

        If another process holds it, `say` is called once with `waiting`. Raises TimeoutError after `timeout` seconds,
        OSError if the file cannot be made.
        """
        now = time.monotonic()
        deadline, next_heartbeat, waited = now + timeout, now, False
        while not self._taken():
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process has the lock", str(self.path))
            if not waited:
                say(waiting)
            waited = True
            if now >= next_heartbeat:
                heartbeat.beat(waiting)
                next_heartbeat = now + _INTERVAL
            time.sleep(_POLL)

    def release(self) -> None:
        """Release it, if it is held. The file stays: another process may wait for it."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1

    def _taken(self) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            lock_descriptor(descriptor, self.path)
            if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                self._descriptor, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):  # held; or its holder has just removed it
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self.held


@contextmanager
def held(path: Path, waiting: str, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the lock file at `path` within the block; see `Lock.acquire`."""
    lock = Lock(path)
    lock.acquire(waiting, say)
    try:
        yield
    finally:
        lock.release()
