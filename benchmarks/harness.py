"""Runs peers on the same work, fairly, and keeps what was measured.

Each peer has a process of its own for the complete measurement, so its memory, threads and imports are its own. Before
anything is timed, the harness checks in a separate process that all peers compute the same. Then come warm-ups that are
not measured, then rounds: A B C, A B C, …, one peer at a time, so that a slow moment of the machine hits all of them.
Ratios are taken inside a round. Memory comes from the operating system.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import psutil  # type: ignore[import-untyped]

from bertnli.common.errors import RunError
from bertnli.common.installed import packages

Say = Callable[[str], None]

_ROOT = Path(__file__).resolve().parent.parent


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


@dataclass
class Measured:
    """What was measured of one peer. runs: in the order of the rounds; options: as its process reports them."""

    peer: Peer
    runs: list[Run] = field(default_factory=list)
    around: list[dict[str, float]] = field(default_factory=list)  # the load around each run, as `_surroundings` has it
    difference: float | None = None  # the `distance` of its `check` from the first peer's
    quality: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] | None = None
    peak_rss: int = 0  # bytes
    skipped: str = ""

    def rates(self) -> list[float]:
        return [run.per_second for run in self.runs]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": self.peer.name,
            "about": self.peer.about,
            "options": self.peer.options() if self.options is None else self.options,
            "unit": self.peer.unit,
        }
        if self.skipped:
            return found | {"skipped": self.skipped}
        runs = [
            asdict(run) | {"per_second": run.per_second} | around
            for run, around in zip(self.runs, self.around, strict=True)
        ]
        return found | {
            "check_difference": self.difference,
            **self.quality,
            "per_second": spread(self.rates()),
            "peak_rss_mib": round(self.peak_rss / 2**20, 1),
            "runs": runs,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: Measured, theirs: Measured) -> dict[str, float]:
    """Median, min and max over the rounds of our rate divided by theirs, in the same round."""
    return spread([a / b for a, b in zip(ours.rates(), theirs.rates(), strict=True)])


def measure(
    peers: Sequence[Peer],
    *,
    amount: int,
    warm_up: int,
    rounds: int,
    logs: Path,
    say: Say,
    patience: float = 0.0,
) -> list[Measured]:
    """Check, warm up, and run every peer `rounds` times, interleaved.

    amount, warm_up: the work of one timed run, and of the run before it that is not measured. logs: a folder for what
    peers print. patience: seconds that may be spent in total on waiting until other programs are quiet, and on
    repeating a run that they disturbed. Raises RunError if a peer fails, or does not compute what the first one does.
    """
    quiet = _Quiet(patience, say)
    measured = [Measured(peer) for peer in peers]
    with ready(measured, warm_up=warm_up, logs=logs, say=say) as running:
        for number in range(rounds):
            for one, worker in running:
                run, around = quiet.run(worker, amount)
                one.runs.append(run)
                one.around.append(around)
                say(f"round {number + 1} of {rounds}: {one.peer.name}: {run.per_second:.4g} {one.peer.unit}/s")
    return measured


@contextmanager
def ready(
    measured: Sequence[Measured], *, warm_up: int, logs: Path, say: Say
) -> Iterator[list[tuple[Measured, Worker]]]:
    """The peers that can run here, checked and warm, each with its process; the others are marked as skipped.

    After the block each has its options and its peak of memory, and all processes have ended. For the arguments and
    errors see `measure`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers: dict[str, Worker] = {}
    try:
        reference: list[float] = []
        for one in measured:
            name = one.peer.name
            say(f"{name}: checking and preparing")
            try:
                figures, one.quality = _check(one.peer, reference, logs / f"{name}-check.log")
                workers[name] = Worker(one.peer, logs / f"{name}.log")
                workers[name].ask("prepare")
            except Unavailable as reason:
                one.skipped = str(reason)
                say(f"{name}: skipped: {reason}")
                continue
            if figures:
                reference = reference or figures
                one.difference = one.peer.distance(figures, reference)
                _must_agree(one, reference, figures)
            workers[name].ask("run", warm_up)
        running = [(one, workers[one.peer.name]) for one in measured if not one.skipped]
        yield running
        for one, worker in running:
            one.peak_rss = sum(_peak_rss(pid) for pid in worker.processes())
            one.options = worker.ask("options")
    finally:
        for worker in workers.values():
            worker.close()


def _check(peer: Peer, reference: Sequence[float], log: Path) -> tuple[list[float], dict[str, Any]]:
    """The results of `check` and `quality`. The first peer is its own reference."""
    worker = Worker(peer, log)
    try:
        figures = worker.ask("check")
        return figures, worker.ask("quality", reference or figures)
    finally:
        worker.close()


def difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest absolute difference; infinite if the counts differ or a figure is NaN."""
    if len(found) != len(expected):
        return float("inf")
    gaps = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)


def _must_agree(one: Measured, reference: Sequence[float], figures: Sequence[float]) -> None:
    assert one.difference is not None
    if one.difference > one.peer.tolerance:
        raise RunError(
            f"benchmark: {one.peer.name} does not compute what the first peer does",
            found=f"{_few(figures)}, {one.difference:.3g} off",
            expected=f"{_few(reference)}, within {one.peer.tolerance:g}",
            do="fix the peer: the speed of other work cannot be compared",
        )


def _few(figures: Sequence[float]) -> str:
    return ", ".join(f"{figure:.5f}" for figure in figures[:6]) + (", …" if len(figures) > 6 else "")


class Worker:
    """A peer in a process of its own, which runs one method at a time."""

    def __init__(self, peer: Peer, log: Path):
        """Raises Unavailable if the peer's interpreter cannot be made."""
        self.peer, self.log = peer, log
        python = peer.python()
        self._connection, theirs = Pipe()
        with theirs:
            script = "import sys; from benchmarks.harness import serve; serve(*sys.argv[1:])"
            path = os.pathsep.join(
                filter(
                    None,
                    (
                        str(_ROOT),
                        *dict.fromkeys(str(package.parent) for package in packages()),
                        os.environ.get("PYTHONPATH"),
                    ),
                )
            )
            self._process = subprocess.Popen(
                [python, "-c", script, str(theirs.fileno()), str(log)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._connection.send(peer)

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.wait()
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


# --- figures of the operating system ----------------------------------------------------------------------------------


class _Quiet:
    """Runs peers while other programs are quiet, as long as there is patience left."""

    LIMIT = 0.1  # cores that other programs may keep busy
    GLANCE = 1.0  # seconds

    def __init__(self, patience: float, say: Say):
        self.left, self.say = patience, say

    def run(self, worker: Worker, amount: int) -> tuple[Run, dict[str, float]]:
        """One run of the peer, and the load around it."""
        while True:
            self._wait()
            with _surroundings(worker) as around:
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
def _surroundings(worker: Worker) -> Iterator[dict[str, float]]:
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


def _peak_rss(pid: int) -> int:
    """Bytes of the largest resident set of a process so far (Linux: VmHWM)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
