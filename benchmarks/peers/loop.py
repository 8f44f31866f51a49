"""Shared by the peers with a training loop of their own: they are loaded, and then take steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.peer import Peer, Run, stopwatch
from benchmarks.work import Work


@dataclass
class Loop(Peer):
    """A peer that takes optimizer steps one by one. share: of the requested pairs, for a peer that is too slow."""

    work: Work
    share: float = 1.0

    @abstractmethod
    def load(self, pairs: int, dropout: float | None) -> None:
        """Load the model and the first `pairs` rows; `dropout` replaces the model's own unless it is None."""

    @abstractmethod
    def step(self) -> float:
        """One optimizer step of `work.batch_size` pairs; returns their mean loss."""

    def check(self) -> list[float]:
        self.load(self.work.batch_size, dropout=0.0)
        return [self.step() for _ in range(self.check_steps)]

    def prepare(self) -> None:
        self.load(self.work.pairs, dropout=None)

    def run(self, amount: int) -> Run:
        steps = max(1, int(amount * self.share) // self.work.batch_size)
        with stopwatch() as seconds:
            for _ in range(steps):
                self.step()
        return Run(steps * self.work.batch_size, seconds())


def endless(loader: Any) -> Iterator[Any]:
    """Its batches, epoch after epoch."""
    while True:
        yield from loader
