"""Two hosts against one, each with one core, and the same work for each rank: how much of the second one is gained.

The hosts are network namespaces on this machine (tests/support/hosts.py) where they can be had, else two local ranks.
Every round goes through four ways: a rank alone; two ranks, each alone on its host at the same time; two ranks of
one job; and these over a slower link. All train on the same pairs: the job of
two has each twice, in steps of twice as many.

The share of a step that goes into communication is what the job of two is slower by than the two apart, which share the
machine (memory, clock) as it does. Beside it stands what the model of the exchange (exchange.py) makes of the rate
apart and the link's measured one, and then what that model says of hosts that are not here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine, work
from benchmarks.exchange import Link, gpu_rate, gradient_bytes, projection, ring, step
from benchmarks.harness import Say, end_children, spread
from benchmarks.peers.bertnli_train import steps_of
from benchmarks.work import Work
from bertnli.common.errors import InputError, RunError
from bertnli.common.network import free_port

BATCH = 32
"""Pairs a rank takes in each step."""
STEPS, EPOCHS = 8, 3
"""Steps of an epoch; all epochs but the first are timed, so that every way is timed on the same pairs."""
_PATIENCE = 300.0  # seconds for a run
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Way:
    """ranks: of each job. jobs: at once, each on a host of its own. rate: of the hosts' links; None: as they are."""

    name: str
    about: str
    ranks: int
    jobs: int = 1
    rate: str | None = None


WAYS = (
    Way("alone", "one rank on one host", 1),
    Way("apart", "two ranks on two hosts that do not communicate", 1, jobs=2),
    Way("together", "two ranks on two hosts", 2),
    Way("together-1gbit", "two ranks on two hosts, links of 1 Gb/s", 2, rate="1gbit"),
)


@dataclass(frozen=True)
class Places:
    """Where two processes run, each on one core. hosts: of tests/support/hosts.py; none where both run here."""

    about: str
    hosts: Sequence[Any]

    def address(self, number: int) -> str:
        return self.hosts[number].address if self.hosts else "127.0.0.1"

    def limit(self, rate: str | None) -> None:
        """What each host may send; None: as much as it can."""
        for host in self.hosts:
            host.slow(rate)

    def start(self, number: int, *words: str, env: Mapping[str, str] | None = None, **streams: Any) -> Any:
        """Run this Python with `words` on one of the two."""
        core = sorted(os.sched_getaffinity(0))[number]
        command = ["taskset", "--cpu-list", str(core), sys.executable, *words]
        if self.hosts:
            return self.hosts[number].start_command(*command, env=env, cwd=_ROOT, **streams)
        return subprocess.Popen(command, env={**os.environ, **(env or {})}, cwd=_ROOT, **streams)


@contextmanager
def places(folder: Path) -> Iterator[Places]:
    """Two hosts with a bridge between them, or this machine twice and why."""
    if len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"):
        raise InputError("benchmarks scaling", expected="two cores, one for each rank, and taskset of util-linux")
    try:
        from tests.support.hosts import cluster, why_not

        reason = why_not()
    except ImportError as error:
        reason = str(error)
    if reason is not None:
        yield Places(f"two ranks on one machine, over its loopback interface ({reason})", ())
        return
    with cluster(folder, a={}, b={}) as hosts:
        yield Places("two hosts: network namespaces of one machine, with a bridge between them", list(hosts.values()))


def scaling(
    folder: Path, model: str, data: str, rounds: int, say: Say, results: Path, batch: int = BATCH
) -> dict[str, Any]:
    """Every way in every round. results: where a GPU's measured rate may lie, for the model. batch: pairs a rank."""
    from bertnli.model import pretrained

    about = machine.describe()
    given = work.training(folder, model, data, STEPS * batch, batch)
    source = pretrained.load(given.model, max_length=work.MAX_LENGTH)
    with places(folder) as there:
        ways = [way for way in WAYS if there.hosts or way.rate is None]
        links: dict[str, float] = {}
        for way in ways:
            if way.ranks > 1:
                there.limit(way.rate)
                links[way.name] = _bandwidth(there)
                say(f"{way.name}: the link carries {links[way.name] / 1e6:,.0f} MB/s")
        rates: dict[str, list[float]] = {way.name: [] for way in ways}
        for number in range(rounds):
            for way in ways:
                there.limit(way.rate)
                rates[way.name].append(_rate(there, way, given, folder / f"{way.name}-{number}"))
                say(f"round {number + 1} of {rounds}: {way.name}: {rates[way.name][-1]:.4g} pairs/s")
    size = gradient_bytes(source.config)
    head = {"name": "scaling", "kind": "scaling", **about, "work": given.to_json(data), "rounds": rounds}
    return {
        **head,
        "where": there.about,
        "each_rank": {"cores": 1, "threads": 1, "pairs_a_step": batch, "timed_steps": STEPS * (EPOCHS - 1)},
        "gradient_bytes": size,
        "communication": "1 - the rate of two ranks together over the rate of two ranks apart, in the same round",
        "ways": [_record(way, rates, links, size, batch) for way in ways],
        "projection": projection(given.tokens_per_pair, gpu_rate(results)),
    }


def _record(
    way: Way, rates: Mapping[str, Sequence[float]], links: Mapping[str, float], size: int, batch: int
) -> dict[str, Any]:
    """The figures of one way. Ratios are taken inside a round."""

    def over(other: str) -> list[float]:
        return [own / its for own, its in zip(rates[way.name], rates[other], strict=True)]

    found = {"name": way.name, "about": way.about, "pairs_per_second": spread(rates[way.name])}
    found |= {"runs": list(rates[way.name]), "over_alone": spread(over("alone"))}
    if way.ranks == 1:
        return found
    link = Link(links[way.name])
    compute = way.ranks * batch / spread(rates["apart"])["median"]
    modelled = step(compute, ring(size, way.ranks, link), overlap=False)
    return found | {
        "communication_share": spread([1 - ratio for ratio in over("apart")]),
        "link_bytes_per_second": link.bytes_per_second,
        "modelled_pairs_per_second": way.ranks * batch / modelled,
    }


def _rate(there: Places, way: Way, given: Work, output: Path) -> float:
    """Pairs/s of all jobs of one way together, by the figures that the trainer logs of its steps."""
    batch = given.batch_size * way.ranks
    rows = output.with_suffix(".jsonl")
    rows.write_text(given.rows.read_text(encoding="utf-8") * way.ranks, encoding="utf-8")
    processes, logs, outputs = [], [], []
    for job in range(way.jobs):
        outputs.append(Path(f"{output}-{job}"))
        run_file = {
            "model": str(given.model),
            "data": {"train": str(rows)},
            "output": str(outputs[-1]),
            "epochs": EPOCHS,
            "global_batch_size": batch,
            "learning_rate": given.learning_rate,
            "seed": job,
            "tensorboard": False,
        }
        path = Path(f"{output}-{job}.yaml")
        path.write_text(yaml.safe_dump(run_file), encoding="utf-8")
        port = free_port()
        for rank in range(way.ranks):
            place = job + rank
            env = {"OMP_NUM_THREADS": "1", "BERTNLI_CACHE": str(output.parent / f"cache-{place}")}
            if way.ranks > 1:
                env |= _joining(there, rank, way.ranks, port)
            logs.append(Path(f"{output}-{place}.log"))
            with logs[-1].open("wb") as log:
                words = ("-m", "bertnli.train", str(path))
                processes.append(there.start(place, *words, env=env, stdout=log, stderr=subprocess.STDOUT))
    _wait(processes, logs)
    return sum(_timed(steps_of(one), batch) for one in outputs)


def _joining(there: Places, rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables by which a launcher tells a rank where the others are."""
    of_host = (0, 1) if there.hosts else (rank, ranks)
    local = dict(zip(("LOCAL_RANK", "LOCAL_WORLD_SIZE"), map(str, of_host), strict=True))
    master = {"MASTER_ADDR": there.address(0), "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), **local, **master}


def _timed(steps: Sequence[Mapping[str, Any]], batch: int) -> float:
    """Pairs/s over the epochs behind the first."""
    timed = steps[STEPS:]
    assert len(timed) == STEPS * (EPOCHS - 1)
    return batch * len(timed) / sum(batch / figures["pairs_per_second"] for figures in timed)


def _wait(processes: Sequence[Any], logs: Sequence[Path]) -> None:
    """Until all have ended well; else none is left. Raises RunError."""
    try:
        for process, log in zip(processes, logs, strict=True):
            if process.wait(_PATIENCE):
                said = log.read_text(errors="replace")[-500:]
                raise RunError(f"benchmark: a rank ended with exit code {process.returncode}", found=said)
    except subprocess.TimeoutExpired:
        raise RunError(f"benchmark: a run took longer than {_PATIENCE:.0f} s", do=f"see {logs[0].parent}") from None
    finally:
        for process in processes:
            if process.poll() is None:
                end_children(process.pid)
                process.kill()
                process.wait()


_RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.recv(1)
began, size, buffer = time.perf_counter(), 1, bytearray(1 << 20)
while got := connection.recv_into(buffer):
    size += got
print(size / (time.perf_counter() - began))
"""
_SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    until = time.monotonic() + 2
    while time.monotonic() < until:
        connection.sendall(bytes(1 << 20))
"""


def _bandwidth(there: Places) -> float:
    """Bytes/s that one connection carries from one place to the other."""
    receiver = there.start(0, "-c", _RECEIVE, there.address(0), stdout=subprocess.PIPE, text=True)
    port = receiver.stdout.readline().strip()
    sender = there.start(1, "-c", _SEND, there.address(0), port)
    out, _ = receiver.communicate(timeout=_PATIENCE)
    if sender.wait(_PATIENCE) or receiver.returncode:
        raise RunError("benchmark: the link's rate could not be measured")
    return float(out)
