"""One way to do the work of a benchmark: what the harness asks of it. Each peer is a class in peers/."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Run:
    """One timed run: the amount of work done, in the peer's unit, and the seconds it took."""

    done: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds


class Unavailable(Exception):
    """This peer cannot run on this machine, for the given reason. It is reported as skipped."""


class Peer(ABC):
    """One way to do the work. It is made in the harness and sent to a process of its own before `prepare`.

    name: identifies it in a record. about: one line for tables. unit: of the work that `run` does. tolerance: how far
    the figures of `check` may be from the first peer's; a subclass gives the reason where it sets it. whole_last_block:
    whether the model computes the last block for all tokens, although the classifier reads only the first.
    """

    name: str
    about: str
    unit: ClassVar[str] = "pairs"
    check_steps: ClassVar[int] = 2  # of training: the second loss shows whether the first step was the same
    whole_last_block: ClassVar[bool] = True
    tolerance: float = 1e-3

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Every setting of this peer, for the record."""

    def check(self) -> list[float]:
        """Figures that must agree with the other peers'; empty if there is nothing to compare. Raises Unavailable.

        Runs in a process of its own, so only files are left for `prepare`.
        """
        return []

    def distance(self, figures: Sequence[float], reference: Sequence[float]) -> float:
        """The distance of the figures of `check` from the first peer's, in the unit of `tolerance`."""
        return difference(figures, reference)

    def quality(self, reference: Sequence[float]) -> dict[str, Any]:
        """More entries of the record, for a peer whose results may differ from the first one's.

        Called in the process that did the check.
        """
        return {}

    def python(self) -> str:
        """The interpreter of the peer's process. Raises Unavailable if it cannot be made."""
        return sys.executable

    @abstractmethod
    def prepare(self) -> None:
        """Everything that is not timed: imports, loading, tokenising. Raises Unavailable."""

    @abstractmethod
    def run(self, amount: int) -> Run:
        """Do about `amount` of work and return how much was done in how many seconds, without start-up."""

    def processes(self) -> list[int]:
        """Ids of the processes that do the work; their memory counts as the peer's."""
        return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds since the start; after the block, the seconds of the block."""
    began, ended = time.perf_counter(), 0.0
    yield lambda: (ended or time.perf_counter()) - began
    ended = time.perf_counter()


def difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference, relative for figures above 1, as a rounded loss has so many digits, not decimals.

    Infinite if the counts differ or a figure is NaN.
    """
    if len(found) != len(expected):
        return float("inf")
    gaps = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)
