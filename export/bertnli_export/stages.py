"""Scoring in stages over bounded queues, so that the device never waits for reading or tokenising.

A `Task` is one chunk of the input. On the CPU a thread of this process reads and tokenises while the model runs; on
GPUs `pool.Pool` does the same with a process for each device. Either way tasks come out scored, in order, and only a
few of them are in memory at any moment.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import Protocol, TypeVar

from bertnli.data.pairs import Chunk
from bertnli_export.scorer import Scorer, Scores

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk, and the indices of its rows that can be scored."""

    chunk: Chunk
    good: list[int]

    @property
    def premises(self) -> list[str]:
        return [self.chunk.rows[index].premise or "" for index in self.good]

    @property
    def hypotheses(self) -> list[str]:
        return [self.chunk.rows[index].hypothesis or "" for index in self.good]


class ScoringEngine(Protocol):
    """What scores tasks. `description` of its devices is for users; `deaths` counts worker processes that died."""

    description: str
    deaths: int

    def score(self, tasks: Iterator[Task]) -> Generator[tuple[Task, Scores], None, None]:
        """Every task with the scores of its good rows, in order.

        If creating a task raises, the results of the earlier tasks are yielded first.
        """

    def close(self) -> None:
        """End what was started."""


class InProcess:
    """A `ScoringEngine` in this process."""

    deaths = 0

    def __init__(self, scorer: Scorer, *, keep_open: bool = False):
        """`keep_open`: `close` leaves the scorer open, because the caller goes on with it."""
        self._scorer, self._keep_open, self.description = scorer, keep_open, scorer.session.description

    def score(self, tasks: Iterator[Task]) -> Generator[tuple[Task, Scores], None, None]:
        submitted = ((task, self._scorer.submit(task.premises, task.hypotheses)) for task in tasks)
        with closing(prefetched(submitted)) as items:
            for task, batches in items:
                yield task, self._scorer.collect(batches)

    def close(self) -> None:
        if not self._keep_open:
            self._scorer.session.close()


def prefetched(items: Iterable[_T]) -> Generator[_T, None, None]:
    """`items`, each made in another thread while the ones before it are in use; at most two wait."""
    queue: Queue[tuple[_T] | BaseException | None] = Queue(maxsize=1)  # an item, what went wrong, or the end
    stopped = Event()

    def put(entry: tuple[_T] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return queue.put(entry, timeout=0.1)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        while (entry := queue.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stopped.set()
        thread.join(timeout=1)  # with a limit, because it may be waiting for standard input
