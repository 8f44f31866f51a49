"""Jobs on several hosts (support/hosts.py) that lose a rank, a host or the network: all ends, and goes on exactly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from bertnli.common.network import free_port
from tests.support.clusterruns import STEPS, Hold, bertnli, clean, own, sets
from tests.support.hosts import Host, cluster, hostfile, python, why_not
from tests.support.runs import same, weights

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]

STALL = 5.0
RUN = [f"max_steps={STEPS}", "seed=7", f"stall_timeout={STALL}", "checkpoint.every_steps=5", "eval_every_steps=1000"]
GONE_WITHIN = 60.0
"""Seconds, at most, from a failure to the end of the job."""


class Running:
    """`bertnli launch` on host a, held in the middle of training by rank `held`."""

    def __init__(
        self, host: Host, work: Path, folder: Path, *options: str, output: str, held: int = 0, wait: bool = True
    ):
        self.output = work / output
        self.hold = Hold(folder, held)
        self.hosts = hostfile(folder / "hosts", a=1, b=1)
        self.command = ["launch", "run me.yaml", "--hostfile", self.hosts, *sets(f"output={output}", *RUN)]
        self.process = host.start_command(
            *("env", f"PYTHONPATH={self.hold.pythonpath}", sys.executable, "-m", "bertnli.cli"),
            *(*self.command, *options),
            cwd=work,
            env=own(work),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until training is held."""
        try:
            self.hold.wait()
        except AssertionError:
            self.ends(within=0)  # raises with the output

    def ends(self, within: float = GONE_WITHIN) -> tuple[int, str]:
        """Exit code and standard error."""
        try:
            _, said = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired as expired:
            said = b"".join(part or b"" for part in (expired.stdout, expired.stderr)).decode()
            raise AssertionError(f"it still ran after {within} s: {said}") from None
        return self.process.returncode, said


def training(host: Host) -> psutil.Process:
    """The training process on a host."""
    processes = [psutil.Process(pid) for pid in host.pids("bertnli.train.process")]
    return next(process for process in processes if process.status() != psutil.STATUS_ZOMBIE)


def wait_until(met: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    while not met():
        assert time.monotonic() < deadline, f"waited {within} s"
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def nothing_left(two):
    """What a test that fails leaves does not disturb the next one."""
    yield
    for host in two.values():
        for pid in host.pids():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def another_job(two):
    """A job of the same user on the same hosts that looks like ours: the same module, the same DeepSpeed launcher."""
    program = "import time; time.sleep(1000)  # bertnli.train deepspeed.launcher.launch"
    running = [
        host.start_command("env", "BERTNLI_JOB=another", "RANK=0", *python("-c", program, "deepspeed", "bertnli.train"))
        for host in two.values()
    ]
    yield running
    alive = [process.poll() is None for process in running]
    for host in two.values():
        for pid in host.pids("deepspeed", "bertnli.train", "-c"):
            os.kill(pid, signal.SIGKILL)
    for process in running:
        process.wait()
    assert all(alive), "another job was ended"


def ours(host: Host) -> list[int]:
    """Processes of the job on a host."""
    others = set(host.pids("deepspeed", "bertnli.train", "-c"))
    return [pid for pid in host.pids() if pid not in others and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def last(said: str, name: str) -> str:
    """The report at the end of standard error; it is about rank and host `name`."""
    found = re.search(rf"^bertnli launch: {name} .*\Z", said, re.MULTILINE | re.DOTALL)
    assert found, said
    assert re.search(r"^bertnli launch: continues from step \d+: bertnli launch 'run me\.yaml' ", said, re.MULTILINE), (
        said
    )
    return found[0]


@pytest.mark.parametrize(
    ("number", "code", "how", "victim", "launcher"),
    [
        (signal.SIGKILL, 137, "was killed by SIGKILL (by a user, or by the kernel", "a", "pdsh"),
        # as when the corpus, which is memory-mapped, cannot be read any more
        (signal.SIGBUS, 135, "was killed by SIGBUS (is /dev/shm full?)", "b", "ssh"),
    ],
    ids=["killed", "bus error"],
)
def test_a_rank_that_dies(two, work, tmp_path, another_job, number, code, how, victim, launcher):
    rank = "ab".index(victim)
    job = Running(two["a"], work, tmp_path, "--launcher", launcher, output=f"runs/dies {launcher}", held=rank)
    assert all(ours(host) for host in two.values())
    training(two[victim]).send_signal(number)
    found, said = job.ends()
    assert found == code, said
    assert last(said, f"rank {rank} on {victim}").startswith(f"bertnli launch: rank {rank} on {victim} {how}")
    assert not ours(two["a"]) and not ours(two["b"])
    assert {path.name for path in (job.output / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}


def test_a_suspended_rank(two, work, tmp_path, another_job):
    job = Running(two["a"], work, tmp_path, "--launcher", "ssh", output="runs/suspended", held=1)
    training(two["b"]).suspend()
    code, said = job.ends()
    assert code == 1
    assert f"made no progress for {STALL:g} s" in last(said, "rank 1 on b") and "suspended, by SIGSTOP" in said
    assert not ours(two["a"]) and not ours(two["b"])


def test_a_host_that_is_cut_off(two, work, tmp_path, another_job):
    """Both parts end: the reachable one, and by itself the other one. Too few hosts are left to go on."""
    job = Running(two["a"], work, tmp_path, "--launcher", "ssh", "--restarts", "1", output="runs/cut off")
    two["b"].cut()
    try:
        code, said = job.ends()
        assert code == 1
        assert re.search(f"sent nothing for {STALL:g} s|ssh connection ended", last(said, "rank 1 on b"))
        assert re.search(r"1 of 2 hosts are left: b: ssh does not reach it .*expected 2 or more", said), said
        wait_until(lambda: not ours(two["a"]) and not ours(two["b"]), within=GONE_WITHIN)
    finally:
        two["b"].reconnect()


def test_a_restart_ends_with_the_weights_of_an_undisturbed_run(two, work, tmp_path, undisturbed):
    job = Running(two["a"], work, tmp_path, "--restarts", "1", output="runs/again")
    job.hold.release()
    training(two["b"]).kill()
    code, said = job.ends(within=180)
    assert code == 0, said
    assert "rank 1 on b was killed by SIGKILL" in said and "starting again on a, b; 0 restarts are left" in said
    assert re.search(r"going on from step \d+ of", said)
    assert same(weights(job.output), undisturbed)
    assert clean(two, work)


def test_after_a_cut_the_run_goes_on_with_the_hosts_that_are_left(work, tmp_path, undisturbed):
    """The sums are in another order, so the weights are not equal to the last bit."""
    with cluster(tmp_path, a={}, b={}) as hosts:
        job = Running(hosts["a"], work, tmp_path, "--restarts", "1", "--min-hosts", "1", output="runs/left")
        hosts["b"].cut()
        wait_until(lambda: not hosts["b"].pids("bertnli.train.process"), within=GONE_WITHIN)
        job.hold.release()
        code, said = job.ends(within=240)
    assert code == 0, said
    assert "starting again on a; 0 restarts are left" in said
    found = weights(job.output)
    assert found.keys() == undisturbed.keys()
    for name in found:
        # Softmax does not depend on a key's bias: its gradient is rounding errors, which AdamW scales to full steps.
        if not name.endswith("attention.self.key.bias"):
            torch.testing.assert_close(found[name], undisturbed[name], rtol=0, atol=1e-5)


def test_ctrl_c_saves_a_checkpoint_and_says_so(two, work, tmp_path, another_job, undisturbed):
    job = Running(two["a"], work, tmp_path, output="runs/stopped by ctrl-c")
    for pid in two["a"].pids("bertnli.cli", "launch"):
        os.kill(pid, signal.SIGINT)
    code, said = job.ends()
    assert code == 130, said
    kept = re.search(rf"stopped after step (\d+) of {STEPS}; a checkpoint is in", said)
    assert kept, said
    assert f"bertnli launch: stopped; continues from step {kept[1]}: bertnli launch" in said
    assert not ours(two["a"]) and not ours(two["b"])
    # Without a hold nothing beats beside it: on a busy machine a rank may wait longer for the other one to start.
    again = bertnli(two["a"], work, *job.command, *sets("stall_timeout=120"))
    assert again.returncode == 0, again.stderr
    assert same(weights(job.output), undisturbed)


def test_two_jobs_on_the_same_hosts(two, work, tmp_path):
    """One fails; the other, of the same user, finishes."""
    folders = [tmp_path / "lives", tmp_path / "dies"]
    for folder in folders:
        folder.mkdir()
    ports = ("--launcher", "ssh", "--master-port", str(free_port()))
    lives = Running(two["a"], work, folders[0], *ports, output="runs/lives", wait=False)
    dies = Running(two["a"], work, folders[1], output="runs/dies", wait=False)
    for job in (lives, dies):
        job.wait()
    for host in two.values():
        for pid in host.pids("bertnli.train.process"):
            if "output=runs/dies" in psutil.Process(pid).cmdline():
                os.kill(pid, signal.SIGKILL)
    assert dies.ends()[0] == 137
    lives.hold.release()
    code, said = lives.ends(within=240)
    assert code == 0, said


def test_deepspeed_called_directly_ends_too(two, work, plain, tmp_path):
    """Without `bertnli launch` only the watchers end the job."""
    (work / "direct.yaml").write_text((work / "run me.yaml").read_text())
    (work / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
    hold = Hold(tmp_path, rank=0)
    process = two["a"].start_command(
        *(Path(sys.executable).parent / "deepspeed", "--hostfile", hostfile(tmp_path / "hosts", a=1, b=1)),
        *("--module", "bertnli.train", "direct.yaml", *sets("output=runs/direct", *RUN)),
        cwd=plain,
        env={**own(work), "PYTHONPATH": hold.pythonpath},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    hold.wait()
    assert any(host.pids("bertnli.train.process") for host in two.values())
    training(two["b"]).kill()
    said, _ = process.communicate(timeout=GONE_WITHIN)
    assert process.returncode != 0
    assert "rank 1 on b was killed by SIGKILL" in said
    wait_until(lambda: not any(host.pids() for host in two.values()), GONE_WITHIN)
