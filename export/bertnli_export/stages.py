"""Scoring in stages over bounded queues, so that the device never waits for reading or tokenising.

On the CPU a thread of this process reads, parses and tokenises while the model runs; with several devices `pool.Pool`
has a process for each of them, which does the same. Either way chunks come out scored, in order, and only a few of them
are in memory at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from queue import Full, Queue
from threading import Event, Thread
from typing import Protocol, TypeVar

from bertnli.data.pair_rows import RawChunk
from bertnli_export.codec import Codec, ScoredChunk, Task
from bertnli_export.expansion import submit
from bertnli_export.scorer import Scorer, Scores

_T = TypeVar("_T")


class ScoringEngine(Protocol):
    """What scores chunks. `description` of its devices is for users; `deaths` counts worker processes that died."""

    description: str
    deaths: int

    def score(self, chunks: Iterator[RawChunk], codec: Codec) -> Generator[ScoredChunk, None, None]:
        """Every chunk with its scores, in order.

        If one cannot be read, parsed or encoded, the error is raised after the earlier ones are yielded.
        """

    def close(self) -> None:
        """End what was started."""


class InProcess:
    """A `ScoringEngine` in this process."""

    deaths = 0

    def __init__(self, scorer: Scorer, *, keep_open: bool = False):
        """`keep_open`: `close` leaves the scorer open, because the caller goes on with it."""
        self._scorer, self._keep_open, self.description = scorer, keep_open, scorer.session.description

    def score(self, chunks: Iterator[RawChunk], codec: Codec) -> Generator[ScoredChunk, None, None]:
        with closing(prefetched(self._submit(chunks, codec))) as items:
            for task, collect in items:
                yield codec.encode(task, collect())

    def _submit(self, chunks: Iterator[RawChunk], codec: Codec) -> Iterator[tuple[Task, Callable[[], Scores]]]:
        for chunk in chunks:
            task = codec.parse(chunk)
            yield task, submit(self._scorer, task.texts, codec.expansion)

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
