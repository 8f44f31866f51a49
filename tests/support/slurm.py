"""A real Slurm on this machine: munged, slurmctld and a slurmd for each of two nodes, all of it in one folder.

    with cluster() as slurm:
        job = slurm.submit("script.sbatch", cwd=tmp_path)
        slurm.wait(job, "COMPLETED")

A node is a process namespace whose first process is its slurmd, so that all of it can be killed at once. It shares this
machine's network and files, and has one GPU, in name only. This needs root, and Debian's slurm-wlm and munge; their own
services are not used. At the end of the block all processes are killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bertnli.common.network import free_port
from tests.conftest import environment

PACKAGES = "slurm-wlm munge"
NODES = ("n1", "n2")

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts again only after the time that credentials are valid.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=5
SlurmdTimeout=300
ReturnToService=2
# Both nodes are this machine, however few cores it has.
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2
"""


def why_not() -> str | None:
    """Why Slurm cannot be started here; None if it can."""
    if os.geteuid() != 0:
        return "to start a Slurm needs root"
    tools = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare")
    missing = [tool for tool in tools if not shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ["PATH"])]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install {PACKAGES}"
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"namespaces cannot be made here: {tried.stderr.decode().strip()}"


class Slurm:
    """The commands that a user calls, and what happens to the nodes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2 Gres=gpu:1"
            for name in NODES
        )
        (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, host=host, port=free_port(), nodes=nodes))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", *(f"spool-{name}" for name in NODES)):
            (folder / name).mkdir()

    # Life

    def start(self) -> None:
        files = [f"--{what}-file={self.folder / ('munge.' + what)}" for what in ("key", "pid", "seed", "log")]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        _wait_until((self.folder / "munge.socket").exists, "munged")
        self._start("slurmctld", "slurmctld", "-D")
        for name in NODES:
            self.start_node(name)
        _wait_until(lambda: self.nodes() == dict.fromkeys(NODES, "idle"), lambda: f"idle nodes: {self.nodes()}")

    def start_node(self, name: str) -> None:
        self._start(name, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "slurmd", "-D", "-N", name)

    def cut_node(self, name: str) -> None:
        """Kill all its processes at once, as a power cut does: the kernel ends a namespace with its first process."""
        process = self._running.pop(name)
        for slurmd in psutil.Process(process.pid).children():
            slurmd.kill()
        process.wait()

    def stop(self) -> None:
        for name in NODES:
            if name in self._running:
                self.cut_node(name)
        for process in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(command, env=self.environment(), stdout=out, stderr=out)

    # Use

    def environment(self, **more: str) -> dict[str, str]:
        """A user's environment, in which the commands talk to this Slurm."""
        ours = {name: value for name, value in environment().items() if not name.startswith(("SLURM", "SBATCH"))}
        path = f"{ours['PATH']}:/usr/sbin:/sbin"
        return {**ours, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf"), **more}

    def run(self, *command: object, **options: Any) -> subprocess.CompletedProcess[str]:
        env = self.environment(**options.pop("env", {}))
        return subprocess.run(
            list(map(str, command)), **{"capture_output": True, "text": True, "timeout": 120, **options}, env=env
        )

    def submit(self, *arguments: object, **options: Any) -> int:
        """Submit a job; its number."""
        done = self.run("sbatch", "--parsable", *arguments, **options)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def job(self, number: int) -> dict[str, str]:
        """The fields of `scontrol show job`: JobState, ExitCode, Restarts, …"""
        done = self.run("scontrol", "--oneliner", "show", "job", number)
        assert done.returncode == 0, done.stderr
        return dict(re.findall(r"(\w+)=(\S+)", done.stdout))

    def nodes(self) -> dict[str, str]:
        """Name -> state."""
        return dict(line.split() for line in self.run("sinfo", "-hN", "-p", "all", "-o", "%N %T").stdout.splitlines())

    def wait(self, number: int, *states: str, seconds: float = 120) -> None:
        _wait_until(lambda: self.job(number)["JobState"] in states, lambda: f"{states}: {self.job(number)}", seconds)

    def end(self, number: int, restarts: int = 0) -> tuple[str, str, int]:
        """Wait until a job has ended, or was requeued more than `restarts` times: its state, exit code and restarts."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        _wait_until(
            lambda: self.job(number)["JobState"] in over or int(self.job(number)["Restarts"]) > restarts,
            lambda: f"the end of {self.job(number)}",
            seconds=120,
        )
        job = self.job(number)
        return job["JobState"], job["ExitCode"], int(job["Restarts"])

    def pids(self, *words: str) -> list[int]:
        """Processes of the nodes whose command line has all the words."""
        found = []
        for process in self._running.values():
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if set(words) <= set(child.cmdline()):
                        found.append(child.pid)
        return found


@contextlib.contextmanager
def cluster() -> Iterator[Slurm]:
    # munge's socket needs a short path, in a folder that all users may enter.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def _wait_until(met: Any, what: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"waited {seconds} s for {what() if callable(what) else what}"
        time.sleep(0.1)
