"""How busy other programs keep the machine, and runs that wait until they are quiet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

from benchmarks.peer import Run
from benchmarks.worker import Worker


class Quiet:
    """Runs peers while other programs are quiet. patience: seconds that may go into waiting and repeating."""

    LIMIT = 0.1  # cores that other programs may keep busy
    GLANCE = 1.0  # seconds

    def __init__(self, patience: float, say: Callable[[str], None]):
        self.left, self.say = patience, say

    def run(self, worker: Worker, amount: int) -> tuple[Run, dict[str, float]]:
        """One run of the peer, and the load around it."""
        while True:
            self._wait()
            with surroundings(worker) as around:
                run = worker.ask("run", amount)
            if around["others_cores"] <= self.LIMIT or self.left <= 0:
                return run, around
            self.say(f"{worker.peer.name}: others kept {around['others_cores']:.1f} cores busy: repeated")
            self.left -= run.seconds

    def _wait(self) -> None:
        while self.left > 0:
            busy = _busy_seconds()
            time.sleep(self.GLANCE)
            if (_busy_seconds() - busy) / self.GLANCE <= self.LIMIT:
                return
            self.left -= self.GLANCE


@contextmanager
def surroundings(worker: Worker) -> Iterator[dict[str, float]]:
    """Yields a dict; after the block it has the load before, and the cores that other programs kept busy during it."""
    pids = worker.processes()
    found = {"load_1min": round(os.getloadavg()[0], 2)}
    busy, own, began = _busy_seconds(), _cpu_seconds(pids), time.perf_counter()
    yield found
    wall = time.perf_counter() - began
    others = (_busy_seconds() - busy) - (_cpu_seconds(pids) - own)
    found["others_cores"] = round(max(0.0, others / wall), 3)


def _busy_seconds() -> float:
    """CPU seconds of the machine, including those of other virtual machines on the same hardware (steal)."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _cpu_seconds(pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
