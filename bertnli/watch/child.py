"""A rank's training process as its watcher (watcher.py) sees it: a child's output, its pulse and its end."""

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
from bertnli.watch.ending import Ending

_OUTPUT = 64 * 1024  # bytes of its standard error that are remembered
_STACKS = 1.0  # seconds to write them


class Trainer:
    """phase, waiting, moved: of its last pulse (bertnli/common/heartbeat.py); `moved` as time.monotonic has it."""

    def __init__(self, rank: int, host: str):
        self.rank, self.host = rank, host
        self.phase, self.waiting, self.moved = "starting", False, time.monotonic()
        self._process: asyncio.subprocess.Process | None = None
        self._stopped_by = 0
        self._said = b""

    async def run(self, command: Sequence[str], log_file: Path) -> Ending:
        """Run `command` to its end, or until this is cancelled. Its output goes to the file, rank 0's to ours as well.

        SIGINT and SIGTERM that we get are passed on to it; SIGUSR1, which Slurm users like to ask for, as SIGTERM.
        """
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab", buffering=0) as log:
            _note(log, f"--- {_now()} {self.host}: {shlex.join(command)}\n".encode())
            hear, speak = os.pipe()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[speak],
                env={**os.environ, heartbeat.VARIABLE: f"{speak}:{os.getpid()}", "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # so that Ctrl-C on a terminal reaches it through us only
            )
            os.close(speak)
            os.set_blocking(hear, False)
            loop = asyncio.get_running_loop()
            loop.add_reader(hear, self._hear, hear)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                loop.add_signal_handler(number, self.stop, number)
            assert self._process.stdout is not None and self._process.stderr is not None
            copies = [
                asyncio.ensure_future(self._copy(self._process.stdout, sys.stdout.buffer, log, remember=False)),
                asyncio.ensure_future(self._copy(self._process.stderr, sys.stderr.buffer, log, remember=True)),
            ]
            try:
                await self._process.wait()
            finally:
                await self.end()
                await asyncio.wait(copies, timeout=_STACKS)
                loop.remove_reader(hear)
                os.close(hear)
                assert self._process.returncode is not None
                ending = Ending.of_process(
                    self.rank,
                    self.host,
                    self._process.returncode,
                    self._stopped_by,
                    self._said.decode(errors="replace"),
                )
                _note(log, f"--- {_now()} {ending}\n".encode())
            return ending

    def stop(self, number: int) -> None:
        """Pass a signal on, once; a second SIGINT ends the trainer at once."""
        if self._process is None or self._process.returncode is not None:
            return
        if number == signal.SIGINT == self._stopped_by:
            self._process.kill()
        elif not self._stopped_by:
            self._stopped_by = signal.SIGTERM if number == signal.SIGUSR1 else number
            self._process.send_signal(self._stopped_by)

    async def end(self) -> None:
        """At once, with whatever it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def show_stacks(self) -> None:
        """Its log gets a traceback of every thread."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(_STACKS)

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def halted(self) -> bool:
        """By SIGSTOP or a debugger."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(self._process.pid).status() in (
                    psutil.STATUS_STOPPED,
                    psutil.STATUS_TRACING_STOP,
                )
        return False

    def _hear(self, pipe: int) -> None:
        heard = os.read(pipe, 65536)
        if not heard:  # its end is closed
            asyncio.get_running_loop().remove_reader(pipe)
            return
        state, _, self.phase = heard.decode(errors="replace").splitlines()[-1].partition(" ")
        self.waiting, self.moved = state == "waiting", time.monotonic()

    async def _copy(self, source: asyncio.StreamReader, ours: BinaryIO, log: BinaryIO, *, remember: bool) -> None:
        while chunk := await source.read(65536):
            if remember:
                self._said = (self._said + chunk)[-_OUTPUT:]
            _note(log, chunk)
            if self.rank == 0:
                with contextlib.suppress(OSError):  # training goes on where nobody reads it any more
                    ours.write(chunk)
                    ours.flush()


def _note(log: BinaryIO, text: bytes) -> None:
    with contextlib.suppress(OSError):  # where the disk is full, what a rank said last is still told
        log.write(text)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")
