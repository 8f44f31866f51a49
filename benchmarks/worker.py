"""A peer in a process of its own: its memory, threads and imports are its own, and what it prints goes to a log."""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.peer import Peer, Unavailable
from bertnli.common.errors import RunError
from bertnli.common.installed import packages

_ROOT = Path(__file__).resolve().parent.parent
_BEFORE_ROUNDS = ("check", "quality", "prepare")


class Worker:
    """A peer in a process of its own, which runs one method at a time."""

    def __init__(self, peer: Peer, log: Path):
        """Raises Unavailable if the peer's interpreter cannot be made."""
        self.peer, self.log = peer, log
        python = peer.python()
        self._connection, theirs = Pipe()
        with theirs:
            script = "import sys; from benchmarks.worker import serve; serve(*sys.argv[1:])"
            folders = dict.fromkeys([str(_ROOT), *(str(package.parent) for package in packages())])
            path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = subprocess.Popen(
                [python, "-c", script, str(theirs.fileno()), str(log)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._connection.send(peer)

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the peer's method returns. Raises Unavailable if the peer cannot run here, RunError if it fails."""
        try:
            self._connection.send((method, arguments))
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.wait()
            if self._process.returncode == -signal.SIGKILL and method in _BEFORE_ROUNDS:
                raise Unavailable("the system killed it, as it does when memory runs out") from None
            raise RunError(
                f"benchmark: {self.peer.name} died in {method}",
                found=f"exit code {self._process.returncode}",
                do=f"see {self.log}",
            ) from None
        if kind == "unavailable":
            raise Unavailable(answer)
        if kind == "failed":
            raise RunError(f"benchmark: {self.peer.name} failed in {method}: {answer}", do=f"see {self.log}")
        return answer

    def processes(self) -> list[int]:
        return self.ask("processes")

    def close(self) -> None:
        """End the process and its children, whatever their state."""
        if self._process.poll() is None:
            end_children(self._process.pid)
            self._process.kill()
            self._process.wait()
        self._connection.close()


def serve(connected: str, log: str) -> None:
    """The main function of a peer's process. connected: the file descriptor over which the peer and the calls come.

    Everything that libraries print goes to the log.
    """
    connection = Connection(int(connected))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the harness, which ends this process
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        peer = connection.recv()
        while True:
            method, arguments = connection.recv()
            connection.send(_answer(peer, method, arguments))
    except (EOFError, OSError):  # the harness is gone
        end_children(os.getpid())


def _answer(peer: Peer, method: str, arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        return "done", getattr(peer, method)(*arguments)
    except Unavailable as reason:
        return "unavailable", str(reason)
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"


def end_children(pid: int | None) -> None:
    """Kill every process that `pid` started, also stopped ones."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
