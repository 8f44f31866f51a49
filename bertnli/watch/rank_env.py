"""Ranks that a cluster's own launcher has started, Slurm's srun or OpenMPI's mpirun, in the variables that torch knows.

    srun --nodes=2 --ntasks-per-node=8 python -m bertnli.train RUN.yaml
    mpirun -n 16 --hostfile HOSTS -x MASTER_ADDR=10.0.0.1 python -m bertnli.train RUN.yaml

Each tells its processes who they are in its own words. DeepSpeed knows OpenMPI's through the mpi4py package only, and
Slurm's not at all; with these here, `deepspeed --launcher openmpi` and `--launcher slurm` work as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import zlib
from collections.abc import Mapping, MutableMapping

from bertnli.common.errors import InputError

FIRST_PORT, PORTS = 20_000, 9_000
"""Below Linux's ephemeral ports (from 32768), and so are the watchers' ports, 10,000 lower."""


def join_launcher(environment: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT where this process is one of
    several that srun or mpirun started; call it before anything looks at them.

    Nothing changes where RANK is set: torchrun, DeepSpeed or a person has said all. Otherwise a rank is what has
    * OMPI_COMM_WORLD_SIZE greater than 1, from mpirun; or
    * SLURM_STEP_NUM_TASKS greater than 1, from srun. A shell of salloc and the script of sbatch have none, although
      they have SLURM_NTASKS, and the script even SLURM_PROCID; salloc's shell, where it is a step (srun --pty), has 1.

    MASTER_ADDR and MASTER_PORT stay where they are set. Else the master is the first node of Slurm's step, or with
    mpirun this host if all ranks are here; the port follows from the job's number, so that two jobs have two.
    Raises InputError for what is missing or contradictory.
    """
    if "RANK" in environment:
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
            _number(name, environment)
        _text("MASTER_ADDR", environment)
        return
    # First: mpirun in a Slurm job starts its helpers with srun, one a node, and the ranks have their variables, too.
    if _several("OMPI_COMM_WORLD_SIZE", environment):
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
        rank, world, local_rank = (_number(name, environment) for name in names)
        here = _number("OMPI_COMM_WORLD_LOCAL_SIZE", environment)
        master, job = _openmpi(environment, everything_here=here == world)
    elif "OMPI_COMM_WORLD_SIZE" not in environment and _several("SLURM_STEP_NUM_TASKS", environment):
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, world, local_rank = (_number(name, environment) for name in names)
        here = _tasks_here(environment, world)
        master, job = _slurm(environment)
    else:
        return
    if not (rank < world and local_rank < here <= world):
        found = f"rank {rank} of {world}, on its host {local_rank} of {here}"
        raise InputError(f"{names[0]} and its fellows", found=found, do="do not set them yourself")
    environment["RANK"], environment["WORLD_SIZE"] = str(rank), str(world)
    environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"] = str(local_rank), str(here)
    environment.setdefault("MASTER_ADDR", master)
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + job % PORTS))


def _openmpi(environment: Mapping[str, str], *, everything_here: bool) -> tuple[str, int]:
    """The master and the job's number."""
    if "MASTER_ADDR" not in environment and not everything_here:
        raise InputError(
            "MASTER_ADDR is not set, and mpirun does not say where rank 0 is",
            do="give the first host's address: mpirun -x MASTER_ADDR=ADDRESS …",
        )
    if "MASTER_PORT" not in environment and "PMIX_NAMESPACE" not in environment:
        raise InputError(
            "MASTER_PORT is not set, and mpirun has not named the job (PMIX_NAMESPACE)",
            do="give a free port of the first host: mpirun -x MASTER_PORT=29500 …",
        )
    return "127.0.0.1", zlib.crc32(environment.get("PMIX_NAMESPACE", "").encode())


def _slurm(environment: Mapping[str, str]) -> tuple[str, int]:
    """The master and a number of the step that no other has within 1000 jobs, or 9 steps of one."""
    master = environment.get("MASTER_ADDR") or _first_node(environment)
    return master, _number("SLURM_JOB_ID", environment) + 1000 * _number("SLURM_STEP_ID", environment)


def _first_node(environment: Mapping[str, str]) -> str:
    node = first_host(_text("SLURM_STEP_NODELIST", environment))
    try:
        socket.getaddrinfo(node, None)
    except OSError as error:
        raise InputError(
            f"MASTER_ADDR is not set, and {node}, the first node of the step, is a name without an address here",
            found=error.strerror,
            do="export MASTER_ADDR before srun: that node's address, which scontrol show node has as NodeAddr",
        ) from None
    return node


def first_host(nodes: str) -> str:
    """The first of Slurm's node list: `gpu[001-003,007],login2` begins with gpu001, `r[2-3]n[08-11]` with r2n08."""
    first = re.match(r"(?:[^][,]|\[[^][]*\])*", nodes)
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", first[0] if first else "")


def _tasks_here(environment: Mapping[str, str], world: int) -> int:
    """Ranks on this node, of Slurm's `2(x3),1`: 2 on each of three nodes, 1 on the fourth."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", _text(name, environment))
    tasks = [int(count) for count, times in parts for _ in range(int(times or 1))]
    node = _number("SLURM_NODEID", environment)
    if node >= len(tasks) or sum(tasks) != world:
        found = f"{environment[name]} on node {node} of a step of {world} tasks"
        raise InputError(name, found=found, do="do not set it yourself")
    return tasks[node]


def _several(name: str, environment: Mapping[str, str]) -> bool:
    return name in environment and _number(name, environment) > 1


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = _text(name, environment)
    if not re.fullmatch(r"[0-9]+", text):
        raise InputError(name, found=repr(text), expected="a number", do="do not set it yourself")
    return int(text)


def _text(name: str, environment: Mapping[str, str]) -> str:
    if name not in environment:
        raise InputError(
            f"{name} is not set, though its fellows are",
            do="leave the launcher's own variables as they are, or set RANK and all others that torchrun sets",
        )
    return environment[name]


PORT = "BERTNLI_WATCH_PORT"


JOB = "BERTNLI_JOB"
"""The job's name in the environment of all its processes, where `bertnli launch` has started them."""


class Rank:
    """This rank, as a launcher's variables have it (launchers.join_launcher has looked at them)."""

    def __init__(self, environment: Mapping[str, str]):
        self.number, self.world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.host = socket.gethostname()
        self.job = environment.get(JOB)
        self.master, self.port = environment["MASTER_ADDR"], watch_port(environment)
        # Two jobs that meet at a port by mistake do not take each other's ranks for their own.
        common = json.dumps([self.job, environment["MASTER_PORT"], self.world])
        self.token = hashlib.sha256(common.encode()).hexdigest()[:16]


def watch_port(environment: Mapping[str, str]) -> int:
    """Where the hub listens: BERTNLI_WATCH_PORT, or 10,000 off the master's port. Raises InputError for no port."""
    if named := environment.get(PORT):
        if not named.isdecimal() or not 1 <= int(named) <= 65535:
            raise InputError(PORT, found=repr(named), expected="a port, 1 to 65535", do="correct or unset it")
        return int(named)
    master = int(environment["MASTER_PORT"])
    return master - 10_000 if master >= 11_024 else master + 10_000
