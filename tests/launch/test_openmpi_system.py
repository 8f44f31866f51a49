"""The OpenMPI recipe with a real mpirun: on one host, and on two (tests/support/hosts.py)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, SOURCES, environment
from tests.launch.test_recipes_system import programs, shell, write_run  # noqa: F401
from tests.support.clusterruns import STEPS, Hold, clean, own, same
from tests.support.hosts import why_not
from tests.support.pages import blocks, changed
from tests.support.runs import weights

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
    pytest.mark.skipif(not shutil.which("mpirun"), reason="mpirun not installed: apt-get install openmpi-bin"),
]

HOSTS, JOB, DEEPSPEED = blocks(ROOT / "launch" / "recipes" / "openmpi.md")
ADDRESS = {"10.0.0.1": "10.77.0.1"}
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.fixture
def start(two, work, programs):  # noqa: F811
    """Types a block of the page on host a, beside its hostfile and a run file with the output and keys given."""

    def begin(
        block: str,
        output: str,
        changes: dict[str, str],
        cwd: Path = work,
        pythonpath: str = SOURCES,
        **keys: object,
    ) -> subprocess.Popen[str]:
        write_run(work / "run.yaml", work, f"runs/{output}", **keys)
        (work / "hosts").write_text(changed(HOSTS, {"node-1 slots=8": "a slots=1", "node-2 slots=8": "b slots=1"}))
        for old, new in changes.items():
            assert old in block
            block = block.replace(old, new)
        command = shell(f"exec </dev/null\n{block}", programs, pythonpath)
        env = {**own(work), **AS_ROOT}
        return two["a"].start_command(*command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)

    return begin


ONE_CORE = {**ADDRESS, "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1", "-x PATH": "-x PATH -x PYTHONPATH"}


def test_deepspeeds_own_openmpi_launcher_trains_the_same(start, two, work, plain, on_one_host):
    changes = {**ADDRESS, "MASTER_ADDR=": "OMP_NUM_THREADS -x MASTER_ADDR="}
    job = start(DEEPSPEED, "deepspeed-mpi", changes, cwd=plain)
    _, said = job.communicate(timeout=150)
    assert job.returncode == 0, said
    assert same(weights(work / "runs" / "deepspeed-mpi"), on_one_host)
    assert clean(two, work)


def test_one_host_needs_no_address(work, on_one_host):
    write_run(work / "run.yaml", work, "runs/mpi")
    done = subprocess.run(
        ["mpirun", "-n", "2", sys.executable, "-m", "bertnli.train", "run.yaml"],
        cwd=work,
        env=environment(**own(work), **AS_ROOT),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert same(weights(work / "runs" / "mpi"), on_one_host)


def test_two_hosts_need_one(start, two, work):
    job = start(JOB, "nowhere", {**ONE_CORE, "-x MASTER_ADDR ": "", "export MASTER_ADDR=": "export NOBODY="})
    _, said = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "MASTER_ADDR is not set, and mpirun does not say where rank 0 is; give the first host's address" in said
    assert clean(two, work)


def test_a_job_on_two_hosts_that_is_stopped_saves_a_checkpoint_and_goes_on(start, two, work, tmp_path, undisturbed):
    hold = Hold(tmp_path)
    job = start(JOB, "mpi-stopped", ONE_CORE, pythonpath=hold.pythonpath, max_steps=STEPS)
    hold.wait()
    (script,) = two["a"].pids("sh", "-ec")
    psutil.Process(script).terminate()
    _, said = job.communicate(timeout=60)
    assert job.returncode == 143
    kept = re.search(rf"stopped after step (\d+) of {STEPS}; a checkpoint is in", said)
    assert kept, said
    assert clean(two, work)
    again = start(JOB, "mpi-stopped", ONE_CORE, max_steps=STEPS)
    _, said = again.communicate(timeout=150)
    assert again.returncode == 0 and f"going on from step {kept[1]} of {STEPS}" in said, said
    assert same(weights(work / "runs" / "mpi-stopped"), undisturbed, within=0)


def test_a_killed_rank_ends_the_job(start, two, work, tmp_path):
    hold = Hold(tmp_path)
    job = start(JOB, "mpi-killed", ONE_CORE, pythonpath=hold.pythonpath, max_steps=STEPS)
    hold.wait()
    os.kill(two["b"].pids("bertnli.train.process")[0], signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 137
    assert "rank 1 on b was killed by SIGKILL" in said
    assert clean(two, work)
