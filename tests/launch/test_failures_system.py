"""Jobs on real hosts (support/hosts.py) that lose a rank, a host or the network: all ends, and goes on exactly."""

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
from tests.conftest import SOURCES
from tests.support.clusterruns import bertnli, clean, own, sets
from tests.support.hosts import Host, cluster, hostfile, python, why_not
from tests.support.runs import losses, same, weights

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]

STALL = 10.0
STEPS = 400
RUN = [f"max_steps={STEPS}", "seed=7", f"stall_timeout={STALL}", "checkpoint.every_steps=5", "eval_every_steps=1000"]
GONE_WITHIN = 30.0
"""Seconds after a failure was noticed: a rank that died at once, a suspended one and a lost host after STALL."""


@pytest.fixture(scope="module")
def undisturbed(two, work, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of the run that nothing befell, on both hosts."""
    hosts = hostfile(tmp_path_factory.mktemp("hosts") / "hosts", a=1, b=1)
    done = bertnli(two["a"], work, "launch", "run me.yaml", "--hostfile", hosts, *sets("output=runs/whole", *RUN))
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(work / "runs" / "whole")


class Running:
    """`bertnli launch` on host a, in the middle of training."""

    def __init__(self, host: Host, work: Path, hosts: Path, *options: str, output: str):
        self.folder = work / output
        command = ["launch", "run me.yaml", "--hostfile", hosts, *options, *sets(f"output={output}", *RUN)]
        self.process = host.start_command(
            *python("-m", "bertnli.cli", *command),
            cwd=work,
            env=own(work),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.wait_for_step(20)

    def wait_for_step(self, step: int) -> None:
        end = time.monotonic() + 120
        while len(losses(self.folder)) < step:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("".join(self.process.communicate()))
            time.sleep(0.1)

    def ends(self, within: float) -> tuple[int, str]:
        """Exit code and standard error."""
        try:
            _, said = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it still ran after {within} s: {''.join(self.process.communicate())}") from None
        return self.process.returncode, said


def trainer(host: Host) -> int:
    """The process id of the training process on a host."""
    return next(
        pid for pid in host.pids("bertnli.train.process") if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    )


def wait_until(met: Callable[[], bool], within: float) -> None:
    end = time.monotonic() + within
    while not met():
        assert time.monotonic() < end, f"waited {within} s"
        time.sleep(0.2)


@pytest.fixture
def another_job(two, tmp_path):
    """A job of the same user on the same hosts that looks like ours: same module, same DeepSpeed launcher."""
    program = "import time; time.sleep(1000)  # bertnli.train deepspeed.launcher.launch"
    running = [
        host.start_command("env", "BERTNLI_JOB=another", "RANK=0", *python("-c", program, "deepspeed", "bertnli.train"))
        for host in two.values()
    ]
    time.sleep(0.5)
    yield running
    alive = [process.poll() is None for process in running]
    for host in two.values():
        for pid in host.pids("deepspeed", "bertnli.train", "-c"):
            os.kill(pid, signal.SIGKILL)
    assert all(alive), "another job was ended"


def ours(host: Host) -> list[int]:
    """What the job has running on a host."""
    others = set(host.pids("deepspeed", "bertnli.train", "-c"))
    return [pid for pid in host.pids() if pid not in others and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def last(said: str, name: str) -> str:
    """The report that ends standard error; it is about rank and host `name`."""
    found = re.search(rf"^bertnli launch: {name} .*\Z", said, re.MULTILINE | re.DOTALL)
    assert found, said
    assert re.search(
        r"^bertnli launch: goes on from step \d+: bertnli launch 'run me\.yaml' .*\n\Z", said, re.MULTILINE
    ), said
    return found[0]


@pytest.mark.parametrize(("victim", "launcher"), [("a", "pdsh"), ("b", "pdsh"), ("b", "ssh")])
def test_a_killed_rank(two, work, tmp_path, another_job, victim, launcher):
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    job = Running(two["a"], work, hosts, "--launcher", launcher, output=f"runs/killed {victim} {launcher}")
    os.kill(trainer(two[victim]), signal.SIGKILL)
    code, said = job.ends(within=GONE_WITHIN)
    assert code == 137, said
    rank = {"a": 0, "b": 1}[victim]
    assert last(said, f"rank {rank} on {victim}").startswith(
        f"bertnli launch: rank {rank} on {victim} was killed by SIGKILL"
    )
    assert not ours(two["a"]) and not ours(two["b"])
    assert {path.name for path in (job.folder / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}


def test_an_exception_is_shown_with_its_traceback_last(two, work, tmp_path, another_job):
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    job = Running(two["a"], work, hosts, output="runs/raised")
    # what the disk does to rank 1 in the middle of a run: the corpus it has mapped cannot be read any more
    process = psutil.Process(trainer(two["b"]))
    process.send_signal(signal.SIGBUS)
    code, said = job.ends(within=GONE_WITHIN)
    assert code == 128 + signal.SIGBUS
    assert "Fatal Python error: Bus error" in last(said, "rank 1 on b") or "SIGBUS" in last(said, "rank 1 on b")
    assert not ours(two["a"]) and not ours(two["b"])


def test_a_suspended_rank(two, work, tmp_path, another_job):
    job = Running(two["a"], work, hostfile(tmp_path / "hosts", a=1, b=1), output="runs/suspended")
    os.kill(trainer(two["b"]), signal.SIGSTOP)
    code, said = job.ends(within=STALL + GONE_WITHIN)
    assert code == 1
    assert f"made no progress for {STALL:g} s" in last(said, "rank 1 on b") and "suspended, by SIGSTOP" in said
    assert not ours(two["a"]) and not ours(two["b"])


@pytest.mark.parametrize(("victim", "launcher"), [("b", "pdsh"), ("b", "ssh")])
def test_a_host_that_is_cut_off(two, work, tmp_path, another_job, victim, launcher):
    """Both sides end: the one that is left, and by itself the one that nobody can reach."""
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    job = Running(two["a"], work, hosts, "--launcher", launcher, output=f"runs/cut {launcher}")
    two[victim].cut()
    try:
        code, said = job.ends(within=STALL + GONE_WITHIN)
        assert code == 1
        assert re.search("sent nothing for 10 s|ssh connection ended", last(said, "rank 1 on b"))
        wait_until(lambda: not ours(two["a"]) and not ours(two["b"]), within=GONE_WITHIN)
    finally:
        two[victim].mend()


def test_a_restart_ends_with_the_weights_of_an_undisturbed_run(two, work, tmp_path, undisturbed):
    job = Running(two["a"], work, hostfile(tmp_path / "hosts", a=1, b=1), "--restarts", "1", output="runs/again")
    os.kill(trainer(two["b"]), signal.SIGKILL)
    code, said = job.ends(within=180)
    assert code == 0, said
    assert "rank 1 on b was killed by SIGKILL" in said and "starting again on a, b; 0 restarts are left" in said
    assert re.search(r"going on from step \d+ of", said)
    assert same(weights(job.folder), undisturbed)
    assert clean(two, work)


def test_restarts_come_to_an_end(two, work, tmp_path):
    job = Running(two["a"], work, hostfile(tmp_path / "hosts", a=1, b=1), "--restarts", "1", output="runs/twice")
    for _ in range(2):
        step = len(losses(job.folder))
        job.wait_for_step(step + 5)
        os.kill(trainer(two["b"]), signal.SIGKILL)
        wait_until(lambda: not two["b"].pids("bertnli.train.process"), 30)
        if _ == 0:
            wait_until(lambda: bool(two["b"].pids("bertnli.train.process")), 60)
            job.wait_for_step(step + 10)
    code, said = job.ends(within=60)
    assert code == 137 and said.count("was killed by SIGKILL") == 2 and said.count("starting again") == 1
    last(said, "rank 1 on b")


def test_after_a_cut_the_run_goes_on_with_the_hosts_that_are_left(work, tmp_path, undisturbed):
    """In sums of another order, so not to the bit."""
    with cluster(tmp_path, a={}, b={}) as hosts:
        options = ("--restarts", "1", "--min-hosts", "1")
        job = Running(hosts["a"], work, hostfile(tmp_path / "hosts", a=1, b=1), *options, output="runs/left")
        hosts["b"].cut()
        code, said = job.ends(within=240)
    assert code == 0, said
    assert "starting again on a; 0 restarts are left" in said
    found = weights(job.folder)
    assert found.keys() == undisturbed.keys()
    for name in found:
        # Softmax does not see a key's bias: its gradient is nothing but rounding, which AdamW makes a full step of.
        if not name.endswith("attention.self.key.bias"):
            torch.testing.assert_close(found[name], undisturbed[name], rtol=0, atol=1e-5)


def test_too_few_hosts_are_left(work, tmp_path):
    with cluster(tmp_path, a={}, b={}) as hosts:
        job = Running(hosts["a"], work, hostfile(tmp_path / "hosts", a=1, b=1), "--restarts", "1", output="runs/few")
        hosts["b"].cut()
        code, said = job.ends(within=90)
        assert code == 1 and re.search(r"1 of 2 hosts are left: b: ssh does not reach it .*expected 2 or more", said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_keeps_a_checkpoint_and_says_so(two, work, tmp_path, another_job, undisturbed, number, code):
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    output = f"runs/stopped {code}"
    job = Running(two["a"], work, hosts, output=output)
    step = len(losses(job.folder))
    for pid in two["a"].pids("bertnli.cli", "launch"):
        os.kill(pid, number)
    found, said = job.ends(within=GONE_WITHIN)
    assert found == code, said
    kept = re.search(r"stopped after step (\d+) of 400; a checkpoint is in", said)
    assert kept and int(kept[1]) >= step
    assert f"bertnli launch: stopped; goes on from step {kept[1]}: bertnli launch" in said
    assert not ours(two["a"]) and not ours(two["b"])
    if number == signal.SIGINT:
        again = bertnli(two["a"], work, "launch", "run me.yaml", "--hostfile", hosts, *sets(f"output={output}", *RUN))
        assert again.returncode == 0, again.stderr
        assert same(weights(job.folder), undisturbed)


def test_two_jobs_on_the_same_hosts(two, work, tmp_path):
    """One fails; the other, of the same user, finishes."""
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    ports = ("--master-port", str(free_port()))
    lives = Running(two["a"], work, hosts, *ports, output="runs/lives")
    dies = Running(two["a"], work, hosts, output="runs/dies")
    for host in two.values():
        for pid in host.pids("bertnli.train.process"):
            if any("output=runs/dies" in word for word in psutil.Process(pid).cmdline()):
                os.kill(pid, signal.SIGKILL)
    assert dies.ends(within=GONE_WITHIN)[0] == 137
    code, said = lives.ends(within=240)
    assert code == 0, said


def test_deepspeed_called_directly_ends_too(two, work, plain, tmp_path):
    """Without `bertnli launch`: the watchers alone see to it."""
    (work / "direct.yaml").write_text((work / "run me.yaml").read_text())
    (work / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    command = [
        Path(sys.executable).parent / "deepspeed",
        "--hostfile",
        hosts,
        "--module",
        "bertnli.train",
        "direct.yaml",
    ]
    process = two["a"].start_command(
        *command,
        *sets("output=runs/direct", *RUN),
        cwd=plain,
        env={**own(work), "PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder = work / "runs" / "direct"
    wait_until(lambda: len(losses(folder)) > 20, 120)
    os.kill(trainer(two["b"]), signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "rank 1 on b was killed by SIGKILL" in said
    wait_until(lambda: not any(host.pids() for host in two.values()), GONE_WITHIN)
