"""The Slurm recipe in a real Slurm (tests/support/slurm.py): it trains, is pre-empted, loses a rank, loses a node."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertnli.watch.rank_env import first_host
from tests.conftest import ROOT, SOURCES
from tests.launch.test_recipes_system import write_run
from tests.support.clusterruns import STEPS, Hold, own, same
from tests.support.pages import changed
from tests.support.runs import weights
from tests.support.slurm import Slurm, cluster, why_not

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]

RECIPE = (ROOT / "launch" / "recipes" / "slurm.sbatch").read_text()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with cluster() as made:
        yield made


def run_file(work: Path, name: str, **keys: object) -> str:
    """In the folder that all nodes share; the output is runs/NAME."""
    write_run(work / f"{name}.yaml", work, f"runs/{name}", **keys)
    return f"{name}.yaml"


def submit(
    slurm: Slurm, work: Path, run: str, *, names_are_known: bool = False, pythonpath: str = SOURCES, wait: int = 30
) -> int:
    """Submit the recipe, changed only where it says CHANGE. wait: seconds that srun waits for tasks that do not end."""
    python = Path(sys.executable).parent
    script = changed(
        RECIPE,
        {
            "--ntasks-per-node=8": "--ntasks-per-node=1",
            "--gpus-per-node=8": "--gpus-per-node=1",
            "--cpus-per-task=8": "--cpus-per-task=1",
            "cd /shared/snli": f"cd {shlex.quote(str(work))}",
            "run_file=run.yaml": f"run_file={shlex.quote(run)}",
            "source /shared/venv/bin/activate": f"export PYTHONPATH={pythonpath} PATH={python}:$PATH",
            "BERTNLI_CACHE=/shared/cache": f"BERTNLI_CACHE={shlex.quote(own(work)['BERTNLI_CACHE'])}",
            **({} if names_are_known else {"# export MASTER_ADDR": "export MASTER_ADDR"}),
        },
    )
    assert unmarked(script) == unmarked(RECIPE)
    script = script.replace("--wait=30", f"--wait={wait}")
    path = slurm.folder / f"{run}.sbatch"
    path.write_text(script)
    return slurm.submit(path, cwd=slurm.folder)  # not `work`: in the name of a log %n is the node


def unmarked(script: str) -> list[str]:
    return [line for line in script.splitlines() if "CHANGE" not in line]


def log(slurm: Slurm, job: int) -> str:
    return (slurm.folder / f"snli-{job}.log").read_text()


def test_a_preempted_run_goes_back_into_the_queue_and_goes_on(slurm, work, tmp_path, undisturbed):
    hold = Hold(tmp_path)
    job = submit(slurm, work, run_file(work, "preempted", max_steps=STEPS), pythonpath=hold.pythonpath)
    hold.wait()
    assert slurm.job(job)["NodeList"] == "n[1-2]"
    urgent = slurm.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1", cwd=slurm.folder)
    slurm.wait(urgent, "COMPLETED")
    assert "stopped by SIGTERM; job" in log(slurm, job)
    kept = re.search(rf"stopped after step (\d+) of {STEPS}; a checkpoint is in", log(slurm, job))
    assert kept, log(slurm, job)
    assert slurm.end(job, restarts=1) == ("COMPLETED", "0:0", 1), log(slurm, job)
    assert f"going on from step {kept[1]} of {STEPS}" in log(slurm, job)
    assert same(weights(work / "runs" / "preempted"), undisturbed, within=0)


def test_a_run_that_loses_a_rank_has_failed(slurm, work, tmp_path):
    hold = Hold(tmp_path)
    job = submit(slurm, work, run_file(work, "killed", max_steps=STEPS), pythonpath=hold.pythonpath)
    hold.wait()
    assert slurm.pids("bertnli.train") and slurm.pids("bertnli.train.process")
    victim = next(pid for pid in slurm.pids("bertnli.train.process") if b"SLURM_PROCID=1" in environ(pid))
    os.kill(victim, signal.SIGKILL)
    assert slurm.end(job) == ("FAILED", "137:0", 0), log(slurm, job)
    assert re.search(r"rank 1 on \S+ was killed by SIGKILL", log(slurm, job))
    assert not slurm.pids("bertnli.train") and not slurm.pids("bertnli.train.process")


def test_a_run_file_that_is_wrong_has_failed(slurm, work):
    """The first rank ends while the other is still starting. How Slurm ends that must not look like a pre-emption."""
    job = submit(slurm, work, run_file(work, "wrong", epoch=3))
    assert slurm.end(job) == ("FAILED", "2:0", 0), log(slurm, job)


def test_a_run_that_loses_a_node_goes_on_when_there_are_enough_again(slurm, work, tmp_path, undisturbed):
    hold = Hold(tmp_path)
    run = run_file(work, "cut", max_steps=STEPS, checkpoint={"every_steps": 5})
    job = submit(slurm, work, run, pythonpath=hold.pythonpath, wait=5)
    hold.wait()
    slurm.cut_node("n2")
    hold.release()
    *_, restarts = slurm.end(job)
    slurm.start_node("n2")
    assert restarts == 1 and "a node does not answer" in log(slurm, job)
    assert slurm.end(job, restarts=1) == ("COMPLETED", "0:0", 1), log(slurm, job)
    assert re.search(rf"going on from step [1-9]\d* of {STEPS}", log(slurm, job))
    assert same(weights(work / "runs" / "cut"), undisturbed, within=0)


def test_node_names_that_no_node_knows(slurm, work):
    job = submit(slurm, work, run_file(work, "unknown"), names_are_known=True)
    assert slurm.end(job) == ("FAILED", "2:0", 0), log(slurm, job)
    assert "MASTER_ADDR is not set, and n1, the first node of the step" in log(slurm, job)


# bertnli.watch.rank_env


@pytest.mark.parametrize("nodes", ["gpu[001-003,007],login2", "login2,gpu[001-003]", "r[2-3]n[08-11]", "n9", "a-1b[5]"])
def test_the_first_host_of_a_list(slurm, nodes):
    assert first_host(nodes) == slurm.run("scontrol", "show", "hostnames", nodes).stdout.split()[0]


SHOW = """
import os
from bertnli.watch.rank_env import set_rank_variables
set_rank_variables(os.environ)
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(*(os.environ.get(name, "-") for name in names), os.environ.get("SLURMD_NODENAME"))
"""


def test_who_is_a_rank(slurm):
    show = (sys.executable, "-c", SHOW)
    master = {"MASTER_ADDR": "10.1.2.3"}
    done = slurm.run("srun", "--nodes=2", "--ntasks=3", *show, env=master)
    ranks = sorted(line.split() for line in done.stdout.splitlines())
    port = ranks[0][5]
    assert ranks == [
        ["0", "3", "0", "2", "10.1.2.3", port, "n1"],
        ["1", "3", "1", "2", "10.1.2.3", port, "n1"],
        ["2", "3", "0", "1", "10.1.2.3", port, "n2"],
    ]
    nobody = ["-"] * 6  # MASTER_ADDR is of another job then, and is left out
    for alone in (["srun", "--ntasks=1"], ["salloc", "--ntasks=4", "--nodes=2"]):
        assert slurm.run(*alone, *show, env=master).stdout.split()[:6] == nobody
    script = f"--wrap={shlex.join(show)}"
    job = slurm.submit("--ntasks=4", "--nodes=2", "--output=script.log", script, cwd=slurm.folder, env=master)
    slurm.wait(job, "COMPLETED")
    assert (slurm.folder / "script.log").read_text().split()[:6] == nobody


def test_deepspeeds_own_slurm_launcher(slurm, work, on_one_host):
    """It does not pass --module on, but python gets what follows --."""
    hosts = slurm.folder / "hosts"
    hosts.write_text("n1 slots=1\nn2 slots=1\n")
    command = [Path(sys.executable).parent / "deepspeed", "--hostfile", hosts, "--launcher", "slurm"]
    command += ["--no_ssh_check", "--master_addr", "127.0.0.1", "--", "-m", "bertnli.train"]
    command += [run_file(work, "deepspeed")]
    done = slurm.run("salloc", "--nodes=2", *command, cwd=work, env={**own(work), "MASTER_ADDR": "127.0.0.1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(work / "runs" / "deepspeed"), on_one_host)


def environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
