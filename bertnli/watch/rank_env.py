"""What the launchers' environment variables say of a rank: its number, the job's size, the master's address.

torchrun and DeepSpeed set RANK, WORLD_SIZE and the others that torch reads. Slurm's srun and OpenMPI's mpirun set
variables of their own, from which `set_rank_variables` sets torch's:

    srun --nodes=2 --ntasks-per-node=8 python -m bertnli.train RUN.yaml
    mpirun -n 16 --hostfile HOSTS -x MASTER_ADDR=10.0.0.1 python -m bertnli.train RUN.yaml

DeepSpeed itself reads OpenMPI's only through the mpi4py package, and does not read Slurm's. With this module
`deepspeed --launcher openmpi` and `deepspeed --launcher slurm` work as well.
"""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Iterable, Mapping, MutableMapping

from bertnli.common.errors import InputError

PORT = "BERTNLI_WATCH_PORT"
"""The variable that names the port on which rank 0's watcher listens."""

JOB = "BERTNLI_JOB"
"""The variable that holds the job's name, in all its processes, if `bertnli launch` started them."""

_JOINS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", JOB)
_SIZES = ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # by which mpirun's and srun's ranks are known
_ALONE = "to train on this machine alone: bertnli train --ranks 1; for a job leave the launcher's variables as they are"

FIRST_PORT, PORTS = 20_000, 9_000
"""Where the master listens if nothing says it. Both these and the watchers' ports, 10,000 lower, are below Linux's
ephemeral ports, which begin at 32768."""


class Rank:
    """This rank, from the variables that `set_rank_variables` has set or checked.

    all_here: whether all ranks of the job run on this host. port: where rank 0's watcher listens, and the others expect
    it; 0 if it chooses a port, because all are here and none is named.
    """

    def __init__(self, environment: Mapping[str, str]):
        self.number, self.world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.local = int(environment.get("LOCAL_RANK") or 0)
        self.host = socket.gethostname()
        self.job = environment.get(JOB)
        self.master, self.master_port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
        self.all_here = local_world_size(environment) == self.world
        self.port = watch_port(environment) if environment.get(PORT) or not self.all_here else 0


def watch_port(environment: Mapping[str, str]) -> int:
    """Where rank 0's watcher listens: BERTNLI_WATCH_PORT, or 10,000 off the master's port.

    Raises InputError if the variable does not hold a port.
    """
    if named := environment.get(PORT):
        if not named.isdecimal() or not 1 <= int(named) <= 65535:
            raise InputError(PORT, found=repr(named), expected="a port, 1 to 65535", do="correct or unset it")
        return int(named)
    master = int(environment["MASTER_PORT"])
    return master - 10_000 if master >= 11_024 else master + 10_000


def local_world_size(environment: Mapping[str, str]) -> int:
    """How many ranks run on this host: torchrun's LOCAL_WORLD_SIZE, which we set as well, or DeepSpeed's LOCAL_SIZE."""
    return int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or 1)


def set_rank_variables(environment: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT if srun or mpirun started this
    process as one of several. Call it before anything reads them.

    If RANK is set, torchrun, DeepSpeed or the user has set them all, and they are only checked. Otherwise what is left
    of them from another job is removed, and this process is a rank if
    * OMPI_COMM_WORLD_SIZE, from mpirun, is greater than 1; or
    * SLURM_STEP_NUM_TASKS, from srun, is greater than 1. (A shell of salloc and the script of sbatch do not have it,
      but they have SLURM_NTASKS, and the script has SLURM_PROCID. In salloc's shell, if that is a step (srun --pty), it
      is 1.)

    MASTER_ADDR and MASTER_PORT are kept if they are set. By default, the master is the first node of Slurm's step, or
    with mpirun this host if all ranks are here. The default port is computed from the job's number, so that two jobs
    use two ports. Raises InputError if a variable is missing or contradicts another.
    """
    if "RANK" in environment:
        _check(environment)
        return
    # mpirun goes first: in a Slurm job it starts a helper on each node with srun, and ranks inherit Slurm's variables.
    if _several("OMPI_COMM_WORLD_SIZE", environment):
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
        rank, world, local_rank = (_number(name, environment) for name in names)
        here = _number("OMPI_COMM_WORLD_LOCAL_SIZE", environment)
        master, job = _openmpi_master(environment, one_host=here == world)
    elif "OMPI_COMM_WORLD_SIZE" not in environment and _several("SLURM_STEP_NUM_TASKS", environment):
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, world, local_rank = (_number(name, environment) for name in names)
        here = _tasks_here(environment, world)
        master, job = _slurm_master(environment)
    else:
        _remove(_JOINS, environment)
        return
    if not (rank < world and local_rank < here <= world):
        found = f"rank {rank} of {world}, on its host {local_rank} of {here}"
        raise InputError(f"{names[0]} and the related variables", found=found, do="do not set them yourself")
    environment["RANK"], environment["WORLD_SIZE"] = str(rank), str(world)
    environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"] = str(local_rank), str(here)
    environment.setdefault("MASTER_ADDR", master)
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + job % PORTS))
    _check(environment)


def leave_job(environment: MutableMapping[str, str]) -> None:
    """Remove what makes a process a rank: left over from another job, or not meant, as `--ranks` was given."""
    _remove((*_JOINS, *_SIZES), environment)


def _remove(names: Iterable[str], environment: MutableMapping[str, str]) -> None:
    for name in names:
        environment.pop(name, None)


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether a launcher, or the user, has made this process a rank. Raises as `set_rank_variables` does."""
    copy = dict(environment)
    set_rank_variables(copy)
    return "RANK" in copy


def note_of_rank(environment: Mapping[str, str]) -> str | None:
    """What a rank that no launcher has started is told first, as its variables may be left over from another job."""
    if environment["WORLD_SIZE"] == "1" or any(name in environment for name in _LAUNCHERS):
        return None
    rank, world, master, port = (environment[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return f"RANK is set: this is rank {rank} of {world}, with its master at {master}, port {port}; {_ALONE}"


def _check(environment: Mapping[str, str]) -> None:
    """Raises InputError if the variables of a rank contradict each other."""
    rank, world, port = (_number(name, environment) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    _text("MASTER_ADDR", environment)
    if rank >= world:
        raise InputError("RANK", found=f"{rank} with WORLD_SIZE {world}", expected="less than WORLD_SIZE", do=_ALONE)
    if not 1 <= port <= 65535:
        raise InputError("MASTER_PORT", found=str(port), expected="a port, 1 to 65535", do="correct it for all ranks")
    local = {name: _number(name, environment) for name in ("LOCAL_RANK", *_LOCAL_SIZES) if name in environment}
    for name in _LOCAL_SIZES:
        if not local.get("LOCAL_RANK", 0) < local.get(name, world) <= world:
            found = f"{local[name]} with LOCAL_RANK {local.get('LOCAL_RANK', 0)} and WORLD_SIZE {world}"
            raise InputError(name, found=found, do=_ALONE)


def _openmpi_master(environment: Mapping[str, str], *, one_host: bool) -> tuple[str, int]:
    """The master's address, and a number of the job."""
    if "MASTER_ADDR" not in environment and not one_host:
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


def _slurm_master(environment: Mapping[str, str]) -> tuple[str, int]:
    """The master's address, and a number of the step; of 1000 jobs in a row, or 9 steps of one job, no two share it."""
    master = environment.get("MASTER_ADDR") or _first_node(environment)
    return master, _number("SLURM_JOB_ID", environment) + 1000 * _number("SLURM_STEP_ID", environment)


def _first_node(environment: Mapping[str, str]) -> str:
    node = first_host(_text("SLURM_STEP_NODELIST", environment))
    try:
        socket.getaddrinfo(node, None)
    except OSError as error:
        raise InputError(
            f"MASTER_ADDR is not set, and {node}, the first node of the step, has a name that does not resolve here",
            found=error.strerror,
            do="export MASTER_ADDR before srun: that node's address, the NodeAddr of scontrol show node",
        ) from None
    return node


def first_host(nodes: str) -> str:
    """The first host of Slurm's node list: gpu001 of `gpu[001-003,007],login2`, r2n08 of `r[2-3]n[08-11]`."""
    first = re.match(r"(?:[^][,]|\[[^][]*\])*", nodes)
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", first[0] if first else "")


def _tasks_here(environment: Mapping[str, str], world: int) -> int:
    """Ranks on this node, from Slurm's list: `2(x3),1` means 2 on each of three nodes and 1 on the fourth."""
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
        raise InputError(name, found=repr(text), expected="a number", do=_ALONE)
    return int(text)


def _text(name: str, environment: Mapping[str, str]) -> str:
    if name not in environment:
        raise InputError(
            f"{name} is not set, but the launcher's other variables are",
            do=f"{_ALONE}, or set all that torchrun sets",
        )
    return environment[name]
