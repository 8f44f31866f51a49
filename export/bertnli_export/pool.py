"""Scoring by several worker processes, one for each GPU, or sharing the cores of the CPU.

This process reads and writes; a worker tokenises and runs one task at a time and has the next one at hand, which hides
the way there and back. Tasks go to whoever has room and come out in order. A worker that dies has its tasks given to
the others. One GPU has a process of its own too: Python's part of 40,000 pairs a second does not fit beside it in one
interpreter.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any

from bertnli.common.cores import usable_cores
from bertnli.common.errors import BertnliError, RunError
from bertnli_export.devices import Device
from bertnli_export.scorer import Judged
from bertnli_export.scoring_setup import ScoringSetup
from bertnli_export.session import DeviceError
from bertnli_export.stages import Task

_WORKER = "bertnli_export.worker"
_AT_HAND = 2  # tasks that a worker has: one is run, one is being tokenised
_FATAL = 2  # workers that a task may cost before it is blamed


@dataclass(eq=False)
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    link: Connection
    tasks: deque[int] = field(default_factory=deque)  # numbers of those it has, in the order it does them
    last_words: str = ""


class Pool:
    """An `stages.Engine` of one worker process for each of `devices`.

    Attributes: `description`, `deaths`.
    """

    def __init__(self, setup: ScoringSetup, devices: Sequence[Device]):
        """Waits until all workers have loaded the bundle.

        Raises what loading it raises, and RunError if no worker lives to tell.
        """
        self.description, self.deaths = "", 0
        self._events: SimpleQueue[tuple[Any, Any]] = SimpleQueue()  # (_Worker or None for the reader, what it says)
        self._workers: list[_Worker] = []
        self._suspects: dict[int, int] = {}  # tasks that a dead worker had, with the number of such workers
        self._waiting: deque[int] = deque()  # tasks to hand out, those of a dead worker first
        threads = max(1, usable_cores() // len(devices))
        try:
            for number, device in enumerate(devices):
                self._start(f"worker {number} ({device})", replace(setup, device=device), threads)
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def judged(self, tasks: Iterator[Task]) -> Generator[tuple[Task, Judged], None, None]:
        """As `stages.Engine` has it. Raises RunError, too, if no worker is left or a task has ended two of them."""
        window = Semaphore(_AT_HAND * len(self._workers) + 2)  # tasks in memory: a slow one holds up the reader
        known: dict[int, Task] = {}
        done: dict[int, Judged] = {}
        is_read, fault, first = False, None, 0
        stopped = Event()

        def read() -> None:
            try:
                while window.acquire() and not stopped.is_set() and (task := next(tasks, None)) is not None:
                    self._events.put((None, task))
                self._events.put((None, None))
            except BaseException as error:
                self._events.put((None, error))

        Thread(target=read, daemon=True).start()  # never waited for: it may be waiting for standard input
        try:
            while not is_read or known:
                worker, message = self._events.get()
                if worker is None:
                    if isinstance(message, Task):
                        number = first + len(known)
                        known[number] = message
                        self._waiting.append(number)
                    else:
                        is_read, fault = True, message
                elif message is None:
                    self._bury(worker, known)
                elif isinstance(message, BertnliError):
                    raise message
                else:
                    number, done[number] = message
                    worker.tasks.remove(number)
                    self._suspects.pop(number, None)
                self._hand_out(known)
                while first in done:
                    yield known.pop(first), done.pop(first)
                    window.release()
                    first += 1
        finally:
            stopped.set()
            window.release()
        if fault is not None:
            raise fault

    def close(self) -> None:
        """End all workers; one that does not go by itself at once is killed."""
        for worker in self._workers:
            _hang_up(worker.link)
        for worker in self._workers:
            try:
                worker.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    # Workers

    def _start(self, name: str, setup: ScoringSetup, threads: int) -> None:
        ours, theirs = socket.socketpair()
        # The child finds the modules where this process does, and not in the folder it is started from.
        paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": paths, "RAYON_NUM_THREADS": str(threads)},  # Rayon: tokenizers'
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours may be where the scores go
        )
        theirs.close()
        worker = _Worker(name, process, Connection(ours.detach()))
        self._workers.append(worker)
        with suppress(OSError):  # it may be dead, which its listener notices
            worker.link.send((setup, threads))
        Thread(target=self._listen, args=[worker], daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        """Passes on all that a worker says, and last that it is dead."""
        try:
            while True:
                message = worker.link.recv()
                if isinstance(message, DeviceError):
                    worker.last_words = str(message)
                else:
                    self._events.put((worker, message))
        except (OSError, EOFError):
            self._events.put((worker, None))

    def _wait_until_loaded(self) -> None:
        loaded: dict[_Worker, str] = {}
        while not loaded.keys() >= set(self._workers):
            worker, message = self._events.get()
            if message is None:
                self._bury(worker, {})
            elif isinstance(message, BertnliError):
                raise message
            else:
                loaded[worker] = message
        kinds = Counter(loaded[worker] for worker in self._workers)
        self.description = " + ".join(f"{number} x {kind}" if number > 1 else kind for kind, number in kinds.items())

    def _hand_out(self, known: dict[int, Task]) -> None:
        while self._waiting:
            number = self._waiting[0]
            worker = max(self._workers, key=lambda each: self._room(each, number))
            if self._room(worker, number) < 1:
                return
            worker.tasks.append(self._waiting.popleft())
            with suppress(OSError):  # it may be dead, which its listener notices
                worker.link.send((number, known[number].premises, known[number].hypotheses))

    def _room(self, worker: _Worker, number: int) -> int:
        """How many tasks such as `number` the worker can take. What a dead worker had goes to one that has nothing
        else, so that it is clear which task kills, if one does."""
        if not self._suspects.keys().isdisjoint(worker.tasks):
            return 0
        return (1 if number in self._suspects else _AT_HAND) - len(worker.tasks)

    def _bury(self, worker: _Worker, known: dict[int, Task]) -> None:
        """Give a dead worker's tasks to the others. Raises RunError if there are none, or if a task is to blame."""
        _hang_up(worker.link)
        if worker.process.poll() is None:  # it has closed the link, so it is going
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        cause = f"{worker.name} {worker.last_words or _end(worker.process.returncode)}"
        self._workers.remove(worker)
        self.deaths += 1
        for number in worker.tasks:
            self._suspects[number] = self._suspects.get(number, 0) + 1
            if self._suspects[number] >= _FATAL:
                rows = known[number].chunk.rows
                raise RunError(
                    f"rows {rows[0].number} to {rows[-1].number}: {_FATAL} workers have died of them",
                    found=cause,
                    do="look at these rows; what is done is kept",
                )
        if not self._workers:
            raise RunError(
                "no worker is left to score with",
                found=cause,
                do="mend that, then give the same command again, without --restart",
            )
        self._waiting.extendleft(reversed(worker.tasks))
        print(f"bertnli: {cause}; its rows go to another", file=sys.stderr, flush=True)


def _hang_up(link: Connection) -> None:
    """End a worker's link for both sides; a thread that listens to it notices (after `close` alone it would not)."""
    # suppressed: it was closed before, or by the other side
    with suppress(OSError), socket.socket(fileno=os.dup(link.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (is memory short? see dmesg)" if name == "SIGKILL" else "")
