"""A rank's training process, as the child of its watcher (watcher.py): its output, its heartbeats and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from bertnli.common import heartbeat
from bertnli.common.safe_path import safe_path
from bertnli.common.signals import meaning, not_ignored
from bertnli.watch.ending import Ending

_STDERR_KEPT = 64 * 1024  # bytes at the end of its standard error, from which its error is taken
_STACKS_TIME = 1.0  # seconds that it gets to print its stacks, and its last output to arrive


class ChildProcess:
    """The training process of one rank.

    phase, waiting: from its last heartbeat (bertnli/common/heartbeat.py). last_progress: when that came, on the clock
    of time.monotonic().
    """

    def __init__(self, rank: int, host: str):
        self.rank, self.host = rank, host
        self.phase, self.waiting, self.last_progress = "starting", False, time.monotonic()
        self._process: asyncio.subprocess.Process | None = None
        self._stopped_by = 0
        self._stderr = b""

    async def run(self, command: Sequence[str], log_file: Path) -> Ending:
        """Run `command` until it ends or this task is cancelled. Its output goes to the file; rank 0's also to ours.

        Signals that this process gets are passed on to it: SIGINT and SIGTERM, SIGHUP and SIGUSR1 as SIGTERM.
        """
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab", buffering=0) as log:
            _write(log, f"--- {_now()} {self.host}: {shlex.join(command)}\n".encode())
            reading, writing = os.pipe()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[writing],
                env={**safe_path(os.environ), heartbeat.VARIABLE: f"{writing}:{os.getpid()}", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # so that Ctrl-C on a terminal reaches it only through us
            )
            os.close(writing)
            os.set_blocking(reading, False)
            loop = asyncio.get_running_loop()
            loop.add_reader(reading, self._read_heartbeats, reading)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *not_ignored([signal.SIGHUP])):
                loop.add_signal_handler(number, self.stop, number)
            assert self._process.stdout is not None and self._process.stderr is not None
            copies = [
                asyncio.ensure_future(self._copy(self._process.stdout, sys.stdout.buffer, log, keep=False)),
                asyncio.ensure_future(self._copy(self._process.stderr, sys.stderr.buffer, log, keep=True)),
            ]
            try:
                await self._process.wait()
            finally:
                await self.kill()
                await asyncio.wait(copies, timeout=_STACKS_TIME)
                loop.remove_reader(reading)
                os.close(reading)
                assert self._process.returncode is not None
                ending = Ending.of_process(
                    self.rank,
                    self.host,
                    self._process.returncode,
                    self._stopped_by,
                    self._stderr.decode(errors="replace"),
                )
                _write(log, f"--- {_now()} {ending}\n".encode())
            return ending

    def stop(self, number: int) -> None:
        """Pass a signal on, once. A second SIGINT kills the process at once."""
        if self._process is None or self._process.returncode is not None:
            return
        if number == signal.SIGINT == self._stopped_by:
            self._process.kill()
        elif not self._stopped_by:
            self._stopped_by = meaning(number)
            self._process.send_signal(self._stopped_by)

    async def kill(self) -> None:
        """Kill the process and all that it has started, and wait for its end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def print_stacks(self) -> None:
        """Have it print a traceback of every thread, which goes to its log."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(_STACKS_TIME)

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def suspended(self) -> bool:
        """Whether SIGSTOP or a debugger has suspended it."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(self._process.pid).status() in (
                    psutil.STATUS_STOPPED,
                    psutil.STATUS_TRACING_STOP,
                )
        return False

    def _read_heartbeats(self, pipe: int) -> None:
        received = os.read(pipe, 65536)
        if not received:  # the process has closed its end
            asyncio.get_running_loop().remove_reader(pipe)
            return
        state, _, self.phase = received.decode(errors="replace").splitlines()[-1].partition(" ")
        self.waiting, self.last_progress = state == "waiting", time.monotonic()

    async def _copy(self, source: asyncio.StreamReader, ours: BinaryIO, log: BinaryIO, *, keep: bool) -> None:
        while chunk := await source.read(65536):
            if keep:
                self._stderr = (self._stderr + chunk)[-_STDERR_KEPT:]
            _write(log, chunk)
            if self.rank == 0:
                with contextlib.suppress(OSError):  # training continues when nobody reads our output any more
                    ours.write(chunk)
                    ours.flush()


def _write(log: BinaryIO, text: bytes) -> None:
    with contextlib.suppress(OSError):  # with a full disk the rank's error is still reported on the terminal
        log.write(text)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")
