"""Nodes of a real Ray cluster on this machine, and workers that stop in the middle of a partition.

The nodes' workers begin with stopping_worker.py, which obeys `ask_for_the_middle`. So a test finds a worker in the
middle of its work however fast or busy the machine is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from bertnli.common.network import free_port
from tests.conftest import SOURCES, environment
from tests.support.stopping_worker import ASKED

# A token would be kept in the home folder, and used by every Ray that is started afterwards.
RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
WORKERS = f"{Path(__file__).parent / 'ray_workers'}{os.pathsep}{SOURCES}"  # as PYTHONPATH takes them


class Node:
    """A node of one CPU: a session of processes of its own."""

    def __init__(
        self, name: str, *arguments: str, hidden: Path | None = None, environment_: dict[str, str] | None = None
    ):
        """hidden: a folder in which this node sees nothing."""
        command = (
            []
            if hidden is None
            else ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {hidden} && exec "$@"', "sh"]
        )
        command += [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
        command += ["--node-name", name, "--object-store-memory", "100000000", *arguments]
        self.process = subprocess.Popen(
            command,
            env=environment(**RAY_ENVIRONMENT, **({"PYTHONPATH": WORKERS} | (environment_ or {}))),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if "Ray runtime started" in line:
                return
        raise AssertionError(said)

    def pids(self) -> list[int]:
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.process.pid:
                    found.append(pid)
        return found

    @property
    def raylet(self) -> psutil.Process:
        [found] = [child for child in psutil.Process(self.process.pid).children() if child.name() == "raylet"]
        return found

    def end(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def cluster(name: str, *arguments: str, **environment_: str) -> Iterator[str]:
    """The address of a cluster of one node."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a longer name would be too long for the sockets in it
    port = str(free_port())
    ports = ("--port", port, "--ray-client-server-port", str(free_port()), "--include-dashboard=false")
    node = Node(name, "--head", *ports, "--temp-dir", folder, *arguments, environment_=environment_)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        node.end()
        shutil.rmtree(folder, ignore_errors=True)


class Stopped(NamedTuple):
    """A worker that has stopped itself (SIGSTOP): some rows of its partition are on disk, and others are not."""

    pid: int
    partition: Path

    def go_on(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # Ray has ended it with its command
            os.kill(self.pid, signal.SIGCONT)


def ask_for_the_middle(output: Path, node: Node | None = None) -> None:
    """Ask the workers, or those of `node`, that the first one with a partition in the folder `output` stops in its
    middle. Workers of other nodes wait until it has, so that they leave it a partition."""
    (output.parent / ASKED).write_text("" if node is None else str(node.process.pid))


def in_the_middle(output: Path, driver: subprocess.Popen[str]) -> Stopped:
    """Wait for the worker that `ask_for_the_middle` was for. driver: the command that scores."""

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        for file in output.parent.glob(f"{ASKED}.*"):
            pid = int(file.suffix[1:])
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                partition = Path(file.read_text())
                file.unlink()
                return Stopped(pid, partition)
        time.sleep(0.05)
    raise AssertionError("no worker came to the middle of a partition")
