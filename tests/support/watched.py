"""Jobs of stand-in training processes under real watchers, as a launcher would start them, with shorter times."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from bertnli.common.network import free_port
from tests.conftest import environment

HOST = socket.gethostname()
WATCH = (  # the watcher's program, with its times shortened
    "import os, sys; from pathlib import Path\n"
    "from bertnli.watch import link; from bertnli.watch.rank_env import Rank; from bertnli.watch.watcher import watch\n"
    "script, logs, stall_timeout, times = sys.argv[1:]\n"
    "link.HEARTBEAT, link.CAUSE_WAIT, link.PEER_CAUSE_WAIT, link.GRACE_PERIOD = map(float, times.split())\n"
    "sys.exit(watch(Rank(os.environ), [sys.executable, '-c', script], Path(logs), float(stall_timeout)))"
)
TRAINING = (  # begins each training process
    "import os, re, signal, subprocess, sys, time\n"
    "from pathlib import Path\n"
    "from bertnli.common.heartbeat import beat, start\n"
    "start()\n"
    "def wait_for(file, line=''):\n"
    "    path = Path(os.environ['BERTNLI_TEST'], file)\n"
    "    while not path.exists() or not re.search('^' + line, path.read_text(), re.M): time.sleep(0.02)\n"
    "def meet():\n"
    "    for rank in range(int(os.environ['WORLD_SIZE'])): wait_for(f'logs/rank-{rank}.log', 'ready')\n"
    "print('ready', file=sys.stderr, flush=True)\n"
)
WAITS = "while True: time.sleep(0.1)\n"  # as in a collective operation: no progress
MOVES = "while True: beat('step'); time.sleep(0.1)\n"


def slowdown() -> float:
    """1 on a quiet machine; on a busy one, how many times longer it takes to start a process now."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import bertnli.watch.watcher"], env=environment(), check=True)
    return max(1.0, (time.monotonic() - started) / 0.4)


class Job:
    """Watchers of `scripts`, one for each rank, as a launcher would start them.

    variables: more for their environment; None removes one that is set here. heartbeat, stall: the seconds between two
    messages, and the stall timeout. stalls: whether the job has that timeout, or one that it never reaches.
    """

    def __init__(
        self,
        folder: Path,
        scripts: list[str],
        stalls: bool = False,
        world: int | None = None,
        variables: Mapping[str, str | None] | None = None,
        **options: Any,
    ):
        self.logs = folder / "logs"
        own = {
            "WORLD_SIZE": str(world or len(scripts)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
            "BERTNLI_WATCH_PORT": str(free_port()),
            "BERTNLI_TEST": str(folder),  # in all processes that the job starts
        }
        self.variables = {name: value for name, value in {**own, **(variables or {})}.items() if value is not None}
        self.options = options  # of subprocess.Popen, for rank 0's watcher
        slow = slowdown()
        self.heartbeat, self.stall = 0.2 * slow, 3.0 * slow
        self.times = " ".join(str(seconds * slow) for seconds in (0.2, 0.2, 1.5, 2.0))
        self.folder, self.stall_timeout = folder, self.stall if stalls else 60.0
        self.watchers = [self.start(number, script) for number, script in enumerate(scripts)]

    def start(self, number: int, script: str) -> subprocess.Popen[str]:
        arguments = [TRAINING + script, str(self.logs), str(self.stall_timeout), self.times]
        return subprocess.Popen(
            [sys.executable, "-c", WATCH, *arguments],
            env=environment(RANK=str(number), **self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **({} if number else self.options),
        )

    def ends(self, within: float = 45) -> tuple[list[int], list[str]]:
        """Exit codes, and each watcher's standard error. Nothing that the job has started is left."""
        deadline = time.monotonic() + within
        both = [watcher.communicate(timeout=max(0.1, deadline - time.monotonic())) for watcher in self.watchers]
        self.out, said = [out for out, _ in both], [err for _, err in both]
        wait_until(lambda: not self.processes())
        return [watcher.returncode for watcher in self.watchers], said

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("BERTNLI_TEST") == str(self.folder)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def linked(self) -> None:
        """Wait until all training processes run, and the hub has heard from all watchers."""
        port = int(self.variables["BERTNLI_WATCH_PORT"])
        for rank in range(len(self.watchers)):
            self.training(rank)
        for watcher in self.watchers[1:]:
            connections = psutil.Process(watcher.pid).net_connections
            wait_until(lambda: any(one.raddr and one.raddr.port == port for one in connections()))  # noqa: B023
        time.sleep(2 * self.heartbeat)

    def training(self, rank: int, line: str = "ready") -> psutil.Process:
        """The training process of a rank, once its log has the line."""
        log = self.logs / f"rank-{rank}.log"
        wait_until(lambda: log.exists() and line in log.read_text().splitlines())
        return psutil.Process(self.watchers[rank].pid).children()[0]


def wait_until(met: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)
