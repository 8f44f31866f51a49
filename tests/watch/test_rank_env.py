"""rank_env, with the variables that real srun, sbatch, salloc (Slurm 22.05) and mpirun (OpenMPI 4.1) have set.

The real ones themselves are in test_slurm_system.py and test_openmpi_system.py.
"""

from __future__ import annotations

import itertools
import socket

import pytest

from bertnli.common.errors import InputError
from bertnli.watch.rank_env import first_host, is_rank, leave_job, local_world_size, note_of_rank, set_rank_variables

JOB = {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}
SALLOC = {**JOB, "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}
SBATCH = {**SALLOC, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_GTIDS": "0"}
SRUN = {  # srun --nodes=2 --ntasks=3: the last task
    **JOB,
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_GTIDS": "2",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
SRUN_ONE = {  # srun --ntasks=1 in an allocation of more
    **SALLOC,
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
MPIRUN = {  # mpirun -n 2 on one host: the second
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "PMIX_NAMESPACE": "2076246017",
    "PMIX_RANK": "1",
}
TWO_HOSTS = {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Names with addresses: n1."""

    def look_up(host: str, port: object) -> list[object]:
        if host != "n1":
            raise socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def joined(environment: dict[str, str]) -> tuple[str, ...]:
    """What torch needs to know, after the call."""
    found = dict(environment)
    set_rank_variables(found)
    assert environment.items() - found.items() == set()  # nothing that was there has changed
    return tuple(
        found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    )


def test_a_task_of_srun():
    assert joined(SRUN) == ("2", "3", "0", "1", "n1", "20071")
    first = {**SRUN, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
    assert joined(first) == ("1", "3", "1", "2", "n1", "20071")


@pytest.mark.parametrize(("node", "here"), [(0, "2"), (2, "2"), (3, "1"), (4, "3"), (6, "3")])
def test_tasks_of_a_node(node, here):
    """Slurm's counts of equal nodes in a row."""
    counts = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1,3(x3)", "SLURM_STEP_NUM_TASKS": "16", "SLURM_NODEID": str(node)}
    assert joined({**SRUN, **counts})[3] == here


def test_a_process_of_mpirun():
    rank, world, local_rank, here, master, port = joined(MPIRUN)
    assert (rank, world, local_rank, here, master) == ("1", "2", "1", "2", "127.0.0.1")
    assert joined({**MPIRUN, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})[5] == port
    assert joined({**MPIRUN, "PMIX_NAMESPACE": "2076311553"})[5] != port  # another job


def test_mpirun_on_two_hosts():
    assert joined({**TWO_HOSTS, "MASTER_ADDR": "10.0.0.1"})[:5] == ("1", "2", "0", "1", "10.0.0.1")
    with pytest.raises(InputError, match=r"MASTER_ADDR is not set, .*; give the first host's address: mpirun -x"):
        set_rank_variables(TWO_HOSTS)


def test_mpirun_in_a_slurm_job():
    """There a step of one task a node starts the ranks, and they inherit the variables of its tasks."""
    assert joined({**SRUN, **MPIRUN})[:5] == ("1", "2", "1", "2", "127.0.0.1")


@pytest.mark.parametrize(
    "environment",
    [
        *({}, {"HOME": "/root"}, SALLOC, SBATCH, SRUN_ONE, {**SRUN, **TORCHRUN}, {**MPIRUN, **TORCHRUN}),
        {**SRUN, **MPIRUN, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
    ids=["nothing", "a shell", "salloc", "sbatch", "srun -n1", "torchrun in srun", "torchrun in mpirun", "mpirun -n1"],
)
def test_not_one_of_several_or_told_already(environment):
    after = dict(environment)
    set_rank_variables(after)
    assert after == environment


STALE = {"WORLD_SIZE": "8", "LOCAL_RANK": "x", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gone", "MASTER_PORT": "abc"}


def test_what_another_job_left_is_removed():
    left = {**STALE, "HOME": "/root"}
    assert not is_rank(left) and left.keys() == {*STALE, "HOME"}
    set_rank_variables(left)
    assert left == {"HOME": "/root"}
    left = {**STALE, "RANK": "3"}
    leave_job(left)
    assert left == {}
    for launcher in (SRUN, MPIRUN):
        leave_job(alone := dict(launcher))
        assert is_rank(launcher) and not is_rank(alone)
    assert is_rank(TORCHRUN) and not is_rank({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"RANK": "2"},
            "RANK; found 2 with WORLD_SIZE 2; expected less than WORLD_SIZE; .*alone: .* --ranks 1",
        ),
        ({"RANK": ""}, "RANK; found ''; expected a number; .*alone: bertnli train --ranks 1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE; found 'two'; expected a number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT; found 70000; expected a port, 1 to 65535"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT; found 'abc'; expected a number"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK; found 'a'; expected a number"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE; found 8 with LOCAL_RANK 1 and WORLD_SIZE 2; .*--ranks 1"),
        ({"LOCAL_SIZE": "1"}, "LOCAL_SIZE; found 1 with LOCAL_RANK 1"),
    ],
)
def test_a_rank_that_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        set_rank_variables({**TORCHRUN, **change})
    if "MASTER_PORT" in change:
        with pytest.raises(InputError, match=message):
            set_rank_variables({**SRUN, **change})


def test_a_rank_without_a_launcher_is_told_so():
    note = "RANK is set: this is rank 1 of 2, with its master at 10.0.0.1, port 29500; to train on this machine alone"
    assert str(note_of_rank(TORCHRUN)).startswith(note)
    for launched in ({"TORCHELASTIC_RUN_ID": "a"}, {"CROSS_RANK": "0"}, SRUN, MPIRUN, {"BERTNLI_JOB": "a"}):
        assert note_of_rank({**TORCHRUN, **launched}) is None
    assert note_of_rank({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("environment", [SRUN, TWO_HOSTS])
def test_what_a_person_says_counts(environment):
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert joined({**environment, **own})[4:] == ("10.0.0.1", "29500")


def test_a_node_name_without_an_address():
    with pytest.raises(
        InputError, match=r"MASTER_ADDR is not set, and gpu7, the first .*not known; export MASTER_ADDR"
    ):
        set_rank_variables({**SRUN, "SLURM_STEP_NODELIST": "gpu[7,9]"})


NEEDED = {
    "srun": (
        SRUN,
        *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST"),
        *("SLURM_STEP_TASKS_PER_NODE", "SLURM_JOB_ID"),
    ),
    "torchrun": (TORCHRUN, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "mpirun": (MPIRUN, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


@pytest.mark.parametrize(
    ("environment", "name"), [(environment, name) for environment, *names in NEEDED.values() for name in names]
)
def test_a_variable_that_is_missing_is_named(environment, name):
    with pytest.raises(InputError, match=rf"^{name} is not set"):
        set_rank_variables({key: value for key, value in environment.items() if key != name})


def test_a_job_without_a_name_needs_a_port():
    unnamed = {name: value for name, value in MPIRUN.items() if name != "PMIX_NAMESPACE"}
    with pytest.raises(InputError, match=r"MASTER_PORT is not set, .*mpirun -x MASTER_PORT=29500"):
        set_rank_variables(unnamed)
    assert joined({**unnamed, "MASTER_PORT": "29500"})[5] == "29500"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_PROCID": "3"}, "SLURM_PROCID and the related variables; found rank 3 of 3, on its host 0 of 1"),
        ({"SLURM_LOCALID": "1"}, "found rank 2 of 3, on its host 1 of 1"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID; found '-1'; expected a number"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS; found 'many'; expected a number"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_TASKS_PER_NODE; found 2,1 on node 1 of a step of 4 tasks"),
        ({"SLURM_NODEID": "2"}, "SLURM_STEP_TASKS_PER_NODE; found 2,1 on node 2 of a step of 3 tasks"),
        ({**TWO_HOSTS, "OMPI_COMM_WORLD_LOCAL_SIZE": "3", "MASTER_ADDR": "n1"}, "rank 1 of 2, on its host 0 of 3"),
    ],
)
def test_contradictions(change, message):
    environment = {**SRUN, **change}
    with pytest.raises(InputError, match=message):
        set_rank_variables(environment)
    assert "RANK" not in environment


def test_ports_of_other_jobs_and_steps_are_other_ports():
    """Below the ephemeral ports, from 32768; and 10,000 lower it is above the ports that only root may use."""
    numbers = itertools.product(range(123_456, 124_456), range(9))
    ports = [int(joined({**SRUN, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[5]) for job, step in numbers]
    assert len(set(ports)) == 9000
    assert min(ports) >= 11_024 and max(ports) < 32_768


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login2", "login2"),
        ("gpu[001-003,007],login2", "gpu001"),
        ("login2,gpu[001-003]", "login2"),
        ("r[2-3]n[08-11]", "r2n08"),
        ("a-1b[5]", "a-1b5"),
        ("gpu[9,11].example.org", "gpu9.example.org"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({"LOCAL_WORLD_SIZE": "2"}, 2),
        ({"LOCAL_SIZE": "4"}, 4),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_SIZE": "4"}, 2),
        ({}, 1),
    ],
)
def test_ranks_on_this_host(environment, ranks):
    """torchrun's variable, DeepSpeed's, and neither if a single process was started by hand."""
    assert local_world_size(environment) == ranks
