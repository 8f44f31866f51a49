"""Training and scoring on a machine that others use too: beside loops that spin on every core, and under a CPU quota.

Each peer has one process for all places, so a peer's rates differ by what runs beside it alone. In a round every peer
runs in every place. A loop has the niceness of the peers, so with L loops a core a peer's fair share of the machine is
1 / (1 + L) of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.harness import Measured, Say, ready, spread
from benchmarks.peer import Peer, Run, Unavailable
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.cross_encoder import CrossEncoderPredict
from benchmarks.peers.transformers_trainer import TransformersTrainer
from benchmarks.worker import Worker
from bertnli.common.cores import usable_cores

ALONE = "alone"
OURS = "bertnli"
BATCH = 32
QUOTA = 1.5  # cores
PERIOD = 100_000  # microseconds, the kernel's default
SECONDS = 3.0  # that a run takes at its fair share; a peer that gets less of it takes longer
CGROUPS = Path("/sys/fs/cgroup")

# It ends with the process that started it, also when that is killed.
_LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(100_000): pass"

Place = Callable[[Sequence[int]], Any]
"""From the ids of a peer's processes to a context in which it runs."""


@dataclass
class InPlaces:
    """The runs of one peer: of each place, in the order of the rounds."""

    measured: Measured
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def rates(self, place: str) -> list[float]:
        return [run.per_second for run in self.runs[place]]


def busy(
    folder: Path,
    model: str,
    train_data: str,
    test_data: str,
    pairs: int,
    loops: Sequence[int],
    rounds: int,
    say: Say,
) -> dict[str, Any]:
    """Train and score `pairs` pairs or fewer in every place. loops: a core, the numbers to measure beside."""
    shares = {ALONE: 1.0, **{name_of(each): 1 / (1 + each) for each in loops}}
    places: dict[str, Place] = {ALONE: lambda pids: nullcontext()}
    places |= {name_of(each): lambda pids, each=each: spinning(each * usable_cores()) for each in loops}
    not_measured: dict[str, str] = {}
    quota = f"quota of {QUOTA:g} cores"
    try:
        with limited([], QUOTA):
            places[quota], shares[quota] = (lambda pids: limited(pids, QUOTA)), min(1.0, QUOTA / usable_cores())
    except Unavailable as reason:
        not_measured[quota] = str(reason)
        say(f"{quota}: not measurable here: {reason}")

    (folder / "training").mkdir()
    training = work.training(folder / "training", model, train_data, pairs, BATCH)
    trainers: list[Peer] = [TransformersTrainer(training), TransformersTrainer(training, best=True)]
    (folder / "scoring").mkdir()
    scoring = work.scoring(folder / "scoring", model, test_data, pairs)
    tasks = {
        "training": (training, [*trainers, BertnliTrain(training)]),
        "scoring": (scoring, [CrossEncoderPredict(scoring, batch_sizes=(BATCH,)), BertnliScore(scoring)]),
    }
    found = {}
    for task, (given, peers) in tasks.items():
        each = in_places(peers, places, shares, given.pairs, BATCH, rounds, folder / f"{task}-logs", say)
        found[task] = {"rows": given.pairs, "tokens_per_pair": given.tokens_per_pair, "peers": record(each, shares)}
    return {
        "name": "busy",
        "kind": "busy",
        **machine.describe(),
        "work": training.to_json(train_data) | {"scored": scoring.to_json(test_data)},
        "rounds": rounds,
        "niceness": os.nice(0),
        "places": shares,
        "not_measured": not_measured,
        "tasks": found,
    }


def name_of(loops: int) -> str:
    """The place beside so many loops a core."""
    return f"beside {loops} loop{'s' * (loops > 1)} a core"


def in_places(
    peers: Sequence[Peer],
    places: Mapping[str, Place],
    shares: Mapping[str, float],
    most: int,
    least: int,
    rounds: int,
    logs: Path,
    say: Say,
) -> list[InPlaces]:
    """Every peer in every place, `rounds` times. most, least: pairs of a run, which is cut to about `SECONDS`."""
    found = [InPlaces(Measured(peer)) for peer in peers]
    with ready([one.measured for one in found], warm_up=least, logs=logs, say=say) as running:
        workers = {one.peer.name: worker for one, worker in running}
        rates = {name: worker.ask("run", least).per_second for name, worker in workers.items()}  # for the amounts
        for number in range(rounds):
            for place, share in shares.items():
                for one in found:
                    name = one.measured.peer.name
                    if name not in workers:
                        continue
                    wanted = int(rates[name] * share * SECONDS) // least * least
                    run = _run(workers[name], places[place], min(most, max(least, wanted)))
                    one.runs.setdefault(place, []).append(run)
                    say(f"round {number + 1} of {rounds}: {name}, {place}: {run.per_second:.4g} pairs/s")
    return found


def _run(worker: Worker, place: Place, amount: int) -> Run:
    with place(worker.processes()):
        run: Run = worker.ask("run", amount)
        return run


def record(found: Sequence[InPlaces], shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each peer, by place: its rate; the share of its fair share that it gets; our rate over its.

    All are medians over the rounds, of what was measured in the same round.
    """
    ours = next((one for one in found if one.measured.peer.name == OURS and one.runs), None)
    rows = []
    for one in found:
        peer = one.measured.peer
        row: dict[str, Any] = {"name": peer.name, "about": peer.about, "options": one.measured.options}
        if one.measured.skipped:
            rows.append(row | {"skipped": one.measured.skipped})
            continue
        alone = one.rates(ALONE)
        row["peak_rss_mib"] = round(one.measured.peak_rss / 2**20, 1)
        row["per_second"] = {place: spread(one.rates(place)) for place in one.runs}
        row["of_fair_share"] = {
            place: spread([rate / (full * shares[place]) for rate, full in zip(one.rates(place), alone, strict=True)])
            for place in one.runs
            if place != ALONE
        }
        if ours is not None and ours is not one:
            row[f"{OURS}_over_it"] = {
                place: spread([a / b for a, b in zip(ours.rates(place), one.rates(place), strict=True)])
                for place in one.runs
            }
        rows.append(row)
    return rows


# --- places -----------------------------------------------------------------------------------------------------------


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """`count` processes that do nothing else than to keep a core busy."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", _LOOP, str(os.getpid())]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def limited(pids: Sequence[int], cores: float, base: Path = CGROUPS) -> Iterator[None]:
    """These processes in a control group of their own (cgroup v2, cpu.max); then back where they were.

    base: where the hierarchy is mounted. Raises Unavailable if no quota can be set there.
    """
    group = base / f"bertnli-benchmarks-{os.getpid()}"
    try:
        if "cpu" not in (base / "cgroup.controllers").read_text().split():
            raise Unavailable(f"{base} has no cpu controller of cgroup v2")
        (base / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
    except OSError as error:
        raise Unavailable(f"no quota of cgroup v2 can be set: {error}") from None
    try:
        try:
            (group / "cpu.max").write_text(f"{int(cores * PERIOD)} {PERIOD}")
            before = {pid: base / _group_of(pid) / "cgroup.procs" for pid in pids}
            for pid in pids:
                (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise Unavailable(f"no quota of cgroup v2 can be set: {error}") from None
        yield
        for pid, procs in before.items():
            procs.write_text(str(pid))
    finally:
        with suppress(OSError):
            group.rmdir()


def _group_of(pid: int) -> str:
    """The process's group in the hierarchy of cgroup v2, relative to its root."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:].strip("/") for line in lines if line.startswith("0::"))
