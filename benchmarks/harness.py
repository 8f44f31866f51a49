"""Runs peers on the same work, fairly, and keeps what was measured.

Each peer has a process of its own for the complete measurement, so its memory, threads and imports are its own. Before
anything is timed, the harness checks in a separate process that all peers compute the same. Then come warm-ups that are
not measured, then rounds: A B C, A B C, …, one peer at a time, so that a slow moment of the machine hits all of them.
Ratios are taken inside a round. Memory comes from the operating system.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peer import Peer, Run, Unavailable
from benchmarks.quiet import Quiet
from benchmarks.worker import Worker
from bertnli.common.errors import RunError

Say = Callable[[str], None]


@dataclass
class Measured:
    """What was measured of one peer. runs: in the order of the rounds; options: as its process reports them."""

    peer: Peer
    runs: list[Run] = field(default_factory=list)
    around: list[dict[str, float]] = field(default_factory=list)  # the load around each run, as `surroundings` has it
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
    when_quiet = Quiet(patience, say)
    measured = [Measured(peer) for peer in peers]
    with ready(measured, warm_up=warm_up, logs=logs, say=say) as running:
        for number in range(rounds):
            for one, worker in running:
                run, around = when_quiet.run(worker, amount)
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


def _peak_rss(pid: int) -> int:
    """Bytes of the largest resident set of a process so far (Linux: VmHWM)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
