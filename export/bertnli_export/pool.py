"""Scoring in several worker processes: one for each GPU, or several that share the cores of the CPU.

This process reads and writes; JSON lines it only cuts into chunks. A worker does all the rest for one chunk, called a
task here, and has the next one queued, which hides the time that messages take. A task goes to a worker that has room;
results come out in order. The tasks of a worker that dies go to the others. Even a single GPU has a process of its own,
because writing and waiting for the disk would hold it up.
"""

from __future__ import annotations

import os
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
from signal import SIGKILL
from threading import Event, Semaphore, Thread
from typing import Any

from bertnli.common.cores import usable_cores
from bertnli.common.errors import BertnliError, RunError
from bertnli.common.progress import say
from bertnli.common.signals import exit_text
from bertnli.data.pair_rows import RawChunk
from bertnli_export.codec import Codec, ScoredChunk
from bertnli_export.devices import Device
from bertnli_export.scoring_setup import ScoringSetup
from bertnli_export.session import DeviceError

_WORKER = "bertnli_export.worker"
_TASKS_EACH = 2  # of a worker: one runs, one is being tokenised
_MAX_DEATHS = 2  # so many workers may die while they have a task; then the task is taken for the cause


@dataclass(eq=False)
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    link: Connection
    tasks: deque[int] = field(default_factory=deque)  # numbers of the tasks it has, in the order it does them
    device_error: str = ""  # if it has sent one before it died
    is_ending: bool = False  # it has sent another error, which is the result of its task, and ends


class Pool:
    """A `stages.ScoringEngine` of one worker process for each of `devices`.

    Attributes: `description`, `deaths`.
    """

    def __init__(self, setup: ScoringSetup, devices: Sequence[Device]):
        """Waits until all workers have loaded the bundle.

        Raises the error of a worker that cannot load it, and RunError if all workers die.
        """
        self.description, self.deaths = "", 0
        self._events: SimpleQueue[tuple[Any, Any]] = SimpleQueue()  # (a _Worker, or None for the reader; its message)
        self._workers: list[_Worker] = []
        self._suspects: dict[int, int] = {}  # tasks that dead workers had -> the number of those workers
        self._waiting: deque[int] = deque()  # tasks to assign, those of dead workers first
        threads = max(1, usable_cores() // len(devices))
        try:
            for number, device in enumerate(devices):
                self._start(f"worker {number} ({device})", replace(setup, device=device), threads)
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def score(self, chunks: Iterator[RawChunk], codec: Codec) -> Generator[ScoredChunk, None, None]:
        """See `stages.ScoringEngine`. It can be called once.

        Also raises RunError if no worker is left, or if a task has ended two of them.
        """
        # How many tasks are in memory at most: a slow one stops the reader.
        window = Semaphore(_TASKS_EACH * len(self._workers) + 2)
        known: dict[int, RawChunk] = {}
        done: dict[int, ScoredChunk | BertnliError] = {}
        is_read, fault, first = False, None, 0
        stopped = Event()

        def read() -> None:
            try:
                while window.acquire() and not stopped.is_set() and (chunk := next(chunks, None)) is not None:
                    self._events.put((None, chunk))
                self._events.put((None, None))
            except BaseException as error:
                self._events.put((None, error))

        for worker in self._workers:
            _send(worker, codec)
        Thread(target=read, daemon=True).start()  # never joined: it may be waiting for standard input
        try:
            while not is_read or known:
                worker, message = self._events.get()
                if worker is None:
                    if isinstance(message, RawChunk):
                        number = first + len(known)
                        known[number] = message
                        self._waiting.append(number)
                    else:
                        is_read, fault = True, message
                elif message is None:
                    self._remove_dead(worker, known)
                else:
                    number = worker.tasks.popleft()
                    done[number] = message
                    self._suspects.pop(number, None)
                    worker.is_ending = isinstance(message, BertnliError)
                self._assign(known)
                while first in done:
                    del known[first]
                    if isinstance(scored := done.pop(first), BertnliError):
                        raise scored
                    yield scored
                    window.release()
                    first += 1
        finally:
            stopped.set()
            window.release()
        if fault is not None:
            raise fault

    def close(self) -> None:
        """End all workers; kill those that do not end at once by themselves."""
        for worker in self._workers:
            _shut_down(worker.link)
        for worker in self._workers:
            _wait_or_kill(worker.process, seconds=2)
        self._workers.clear()

    def _start(self, name: str, setup: ScoringSetup, threads: int) -> None:
        ours, theirs = socket.socketpair()
        # The child finds the modules where this process does, and not in the folder it is started from.
        paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": paths, "RAYON_NUM_THREADS": str(threads)},  # Rayon runs the tokenizer
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # this process may write the scores to standard output
        )
        theirs.close()
        worker = _Worker(name, process, Connection(ours.detach()))
        self._workers.append(worker)
        _send(worker, (setup, threads))
        Thread(target=self._listen, args=[worker], daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        """Queues each message of a worker; None when it is dead."""
        try:
            while True:
                message = worker.link.recv()
                if isinstance(message, DeviceError):
                    worker.device_error = str(message)
                else:
                    self._events.put((worker, message))
        except (OSError, EOFError):
            self._events.put((worker, None))

    def _wait_until_loaded(self) -> None:
        loaded: dict[_Worker, str] = {}
        while not loaded.keys() >= set(self._workers):
            worker, message = self._events.get()
            if message is None:
                self._remove_dead(worker, {})
            elif isinstance(message, BertnliError):
                raise message
            else:
                loaded[worker] = message
        kinds = Counter(loaded[worker] for worker in self._workers)
        self.description = " + ".join(f"{number} x {kind}" if number > 1 else kind for kind, number in kinds.items())

    def _assign(self, known: dict[int, RawChunk]) -> None:
        """Send waiting tasks to workers that have room."""
        while self._waiting:
            number = self._waiting[0]
            worker = max(self._workers, key=lambda each: self._room(each, number))
            if self._room(worker, number) < 1:
                return
            worker.tasks.append(self._waiting.popleft())
            _send(worker, known[number])

    def _room(self, worker: _Worker, number: int) -> int:
        """How many tasks like `number` the worker can take.

        A task of a dead worker goes to a worker that has no other, so that it is clear which task is the cause.
        """
        if worker.is_ending or not self._suspects.keys().isdisjoint(worker.tasks):
            return 0
        return (1 if number in self._suspects else _TASKS_EACH) - len(worker.tasks)

    def _remove_dead(self, worker: _Worker, known: dict[int, RawChunk]) -> None:
        """Let the tasks of a dead worker wait for others. Raises RunError if it was the last or a task is the cause."""
        if worker.is_ending:
            return  # the run ends with the error that it has sent
        _shut_down(worker.link)
        _wait_or_kill(worker.process, seconds=5)  # it has closed the link, so it is about to end
        code = worker.process.returncode
        cause = worker.device_error or exit_text(code) + (" (is memory short? see dmesg)" if code == -SIGKILL else "")
        cause = f"{worker.name} {cause}"
        self._workers.remove(worker)
        self.deaths += 1
        for number in worker.tasks:
            self._suspects[number] = self._suspects.get(number, 0) + 1
            if self._suspects[number] >= _MAX_DEATHS:
                first, size = known[number].first, known[number].size
                raise RunError(
                    f"rows {first} to {first + size - 1}: {_MAX_DEATHS} workers died while they scored them",
                    found=cause,
                    do="look at these rows; what is done is kept",
                )
        if not self._workers:
            raise RunError(
                "all workers have died",
                found=cause,
                do="fix this, then give the same command again, without --restart",
            )
        self._waiting.extendleft(reversed(worker.tasks))
        say(f"bertnli: {cause}; its rows go to another worker")


def _send(worker: _Worker, message: Any) -> None:
    with suppress(OSError):  # if it is dead, _listen notices
        worker.link.send(message)


def _shut_down(link: Connection) -> None:
    """End a link for both sides. A thread that listens to it notices, which it would not after `close` alone."""
    # suppressed: it was closed before, or by the other side
    with suppress(OSError), socket.socket(fileno=os.dup(link.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
