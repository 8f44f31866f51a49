"""`bertnli launch`: what is started, with which environment, and what comes of its output and exit codes."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from bertnli_launch import job
from bertnli_launch.hostfile import Hosts
from bertnli_launch.preflight import PreflightResult
from bertnli_launch.supervisor import Command

from bertnli.common.errors import InputError, RunError
from bertnli.common.network import free_port
from bertnli.run.folder import RunFolder
from bertnli.run.run_file import load_run
from bertnli.watch.ending import Ending
from bertnli.watch.key import Key, read_key
from tests.conftest import SOURCES
from tests.support import fake_ssh, tiny


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A run file in the working folder, whose name has characters that are special in a shell."""
    folder = tmp_path / "it's $HOME; a folder"
    tiny.hf_folder(folder / "start")
    (folder / "train.tsv").write_text("premise\thypothesis\tlabel\n")
    content = {"model": "start", "data": {"train": "train.tsv"}, "output": "runs/x", "epochs": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(folder)
    return "run.yaml"


@pytest.fixture
def two_hosts(tmp_path, monkeypatch):
    """The hostfile of two hosts that are this machine."""
    folder = fake_ssh.install(tmp_path)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    (tmp_path / "hosts").write_text("a slots=4\nb slots=1\n")
    return str(tmp_path / "hosts")


def a_job(launcher: str = "ssh", **changes) -> job.Job:
    settings = {
        "hosts": {"a": (0, 2), "b": (0,)},
        "master": "10.0.0.1",
        "port": 29501,
        "environment": {"A": "x $y", "DS_ACCELERATOR": "cpu"},
        "arguments": ["run me.yaml", "--set", "model=it's; $HOME"],
        "launcher": launcher,
        **changes,
    }
    return job.Job(**settings)


def test_one_deepspeed_command_for_pdsh(tmp_path):
    (command,) = job.commands(a_job("pdsh"), tmp_path)
    assert Path(command.argv[0]).name == "deepspeed"
    words = " ".join(command.argv)
    assert "--include a:0,2@b:0" in words and "--master_addr 10.0.0.1 --master_port 29501" in words
    assert "--force_multi" in words  # a single host of the hostfile need not be this one
    assert command.files[Path(command.environment["DS_ENV_FILE"])] == "A=x \\$y\nDS_ACCELERATOR=cpu\n"
    runner = pytest.importorskip("deepspeed.launcher.runner")
    given = runner.parse_args(list(command.argv[1:]))  # DeepSpeed takes every option
    assert (given.module, given.user_script) == (True, "bertnli.train")
    assert given.user_args == ["run me.yaml", "--set", "model=it's; \\$HOME"]
    hosts = tmp_path / "hosts"
    hosts.write_text(command.files[hosts])
    assert runner.parse_inclusion_exclusion(runner.fetch_hostfile(str(hosts)), given.include, "") == {
        "a": [0, 2],
        "b": [0],
    }


def test_over_ssh_each_host_starts_what_deepspeed_would_start_there(tmp_path):
    first, second = job.commands(a_job("ssh"), tmp_path)
    assert (first.host, second.host) == ("a", "b")
    assert first.argv[-2] == "a" and first.files == {}
    remote = shlex.split(second.argv[-1])
    assert remote[:3] == ["exec", "env", "A=x $y"]
    launcher = remote[remote.index("deepspeed.launcher.launch") :]
    assert "--node_rank=1" in launcher and "--master_addr=10.0.0.1" in launcher
    assert launcher[launcher.index("--module") :] == ["--module", "bertnli.train", *a_job().arguments]


def test_a_dry_run_prints_what_to_paste_and_starts_nothing(two_hosts, run_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/it's/hf")
    monkeypatch.setenv("HF_TOKEN", "secret")
    kept = sorted(tmp_path.rglob("*"))
    assert job.launch(run_file, ["epochs=2"], hosts_file=two_hosts, launcher="ssh", include="a:0@b", dry_run=True) == 0
    assert sorted(tmp_path.rglob("*")) == kept
    out = capsys.readouterr().out
    script = out[out.index("(cd /") :]
    assert "secret" not in out
    # pasted, with a python that shows what it was given
    shown = tmp_path / "shown"
    (tmp_path / "python").write_text(f'#!/bin/sh\nprintf "%s\\n" "$HF_HOME" "$@" > {shown}.$$\n')
    (tmp_path / "python").chmod(0o755)
    script = script.replace(sys.executable, str(tmp_path / "python"))
    subprocess.run(["sh", "-c", script], check=True)
    for number, file in enumerate(
        sorted(tmp_path.glob("shown.*"), key=lambda file: "--node_rank=1" in file.read_text())
    ):
        lines = file.read_text().splitlines()
        assert lines[0] == "/it's/hf" and f"--node_rank={number}" in lines
        assert lines[lines.index("bertnli.train") :] == [
            *("bertnli.train", "--directory", str(Path.cwd()), "run.yaml", "--set", "epochs=2")
        ]
    assert number == 1


def test_a_finished_run_a_missing_hostfile_and_a_bad_key_start_nothing(two_hosts, run_file):
    with pytest.raises(InputError, match="No such file"):
        job.launch(run_file, hosts_file="nowhere")
    with pytest.raises(InputError, match="did you mean epochs"):
        job.launch(run_file, ["epoch=1"], hosts_file=two_hosts)
    pairs = "deepspeed={train_micro_batch_size_per_gpu: 4, gradient_accumulation_steps: 2}"
    with pytest.raises(InputError, match="ranks: 4 x 2 x 5 contradicts global_batch_size: 24"):
        job.launch(run_file, [pairs, "global_batch_size=24"], hosts_file=two_hosts)
    Path("runs/x/model").mkdir(parents=True)
    with pytest.raises(InputError, match="a finished run"):
        job.launch(run_file, hosts_file=two_hosts)


def test_what_a_run_needs(run_file):
    needs = job.needs(load_run(run_file), run_file)
    here = Path.cwd()
    assert needs.paths == {"run file": here / "run.yaml", "model": here / "start", "data.train": here / "train.tsv"}
    assert job.needs(load_run(run_file), run_file, "ds.json").paths["deepspeed"] == here / "ds.json"
    taught = load_run(run_file, ["teacher=start"])
    assert job.needs(taught, run_file).paths["teacher"] == here / "start"
    weights = (here / "start" / "model.safetensors").stat().st_size
    assert needs.output == here / "runs" / "x"
    assert (needs.disk, needs.memory) == (9 * weights, 4 * weights + 2**30)
    for kept, room in ((1, 6), (2, 3), (3, 3)):  # those that lie there take no room again
        (here / "runs" / "x" / "checkpoints" / f"step-{kept:08}").mkdir(parents=True)
        assert job.needs(load_run(run_file), run_file).disk == room * weights


def test_the_environment_of_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".deepspeed_env").write_text("A=home\nB=home\n")
    (tmp_path / ".deepspeed_env").write_text("# ours\n\nB='here and # now'\n")
    found = job.job_environment({"NCCL_DEBUG": "INFO", "SSH_AUTH_SOCK": "/x", "PYTHONPATH": "/mine"}, None)
    assert (found["A"], found["B"], found["NCCL_DEBUG"]) == ("home", "here and # now", "INFO")
    assert found["PYTHONPATH"] == f"{SOURCES}:/mine" and "SSH_AUTH_SOCK" not in found
    assert found["BERTNLI_CACHE"] == os.environ["BERTNLI_CACHE"]
    (tmp_path / "mine").write_text("A=mine\nNCCL_DEBUG=WARN\n")
    found = job.job_environment({"NCCL_DEBUG": "INFO"}, str(tmp_path / "mine"))
    assert (found["A"], found["NCCL_DEBUG"]) == ("mine", "WARN") and "B" not in found
    assert job.job_environment({"DS_ENV_FILE": str(tmp_path / "mine")}, None)["A"] == "mine"


def test_the_launcher_is_what_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job.choose_launcher(None) == "ssh"
    with pytest.raises(InputError, match="found pdsh is not installed here"):
        job.choose_launcher("pdsh")
    with pytest.raises(InputError, match="expected pdsh or ssh"):
        job.choose_launcher("rsh")
    (tmp_path / "pdsh").touch(0o755)
    assert job.choose_launcher(None) == "pdsh"


@pytest.mark.parametrize("launcher", ["ssh", "pdsh"])
def test_the_jobs_key_is_on_no_command_line(two_hosts, run_file, tmp_path, monkeypatch, launcher):
    """It is in a file of the output folder, for this user alone, as long as the job runs."""
    seen = []
    (tmp_path / "bin" / "pdsh").touch(0o755)

    def attempt(
        started: Sequence[Command], hosts: Hosts, environment: dict[str, str], name: str, secret: bytes, say: Any
    ):
        (file,) = Path("runs/x/logs").iterdir()
        seen.append((file, secret))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and name in file.name
        assert read_key(file) == Key(secret) and len(secret) == 32
        for one in started:
            words = [*one.argv, *one.environment.values(), *one.files.values()]
            assert not any(secret.hex() in word for word in words) and any(name in word for word in words)
        return Ending(0, "a", 1, "ended with exit code 1"), True, False

    monkeypatch.setattr(job, "run_attempt", attempt)
    options = {"include": "a:0@b", "port": free_port(), "launcher": launcher}
    assert job.launch(run_file, hosts_file=two_hosts, restarts=1, **options) == 1
    assert len(seen) == len({secret for _, secret in seen}) == 2  # each attempt has its own
    assert not any(file.exists() for file, _ in seen)


def test_a_key_that_cannot_be_written_starts_nothing(two_hosts, run_file, monkeypatch):
    monkeypatch.setattr(job, "run_attempt", lambda *_: pytest.fail("the job was started"))
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/logs").touch()
    with pytest.raises(RunError, match=r"a: the job's key cannot be written to .*/runs/x/logs/.key-\w+; found "):
        job.launch(run_file, hosts_file=two_hosts, include="a:0@b", port=free_port())


@pytest.mark.parametrize(("asked", "attempts"), [(False, 3), (True, 1)])
def test_a_job_that_was_asked_to_stop_is_not_started_again(two_hosts, run_file, monkeypatch, asked, attempts):
    begun = []

    def fails(*started: object) -> tuple[Ending, bool, bool]:
        begun.append(started)
        return Ending(0, "a", 137, "was ended by SIGKILL"), True, asked

    monkeypatch.setattr(job, "run_attempt", fails)
    assert job.launch(run_file, hosts_file=two_hosts, include="a:0@b", port=free_port(), restarts=2) == 137
    assert len(begun) == attempts


@pytest.mark.parametrize(("text", "said"), [("bertnli train: no key x", "no key x"), ("", "rank 0 on a said nothing")])
def test_a_refusal_is_printed_with_or_without_a_ranks_error(tmp_path, text, said):
    (line,) = job._report(Ending(0, "a", 2, "said nothing", text), False, RunFolder(tmp_path))
    assert said in line
    assert job._report(Ending(0, "a", 2, "said nothing", text), True, RunFolder(tmp_path)) == []


def test_a_masters_address_is_not_given_to_another_host(two_hosts, run_file, monkeypatch):
    """As where the first host is lost, and the job goes on with the others."""
    masters = []

    def cleared(hosts: Hosts, *_: object, master: str | None, port: int) -> PreflightResult:
        masters.append(master)
        return PreflightResult("127.0.0.1", {"b": {"gpus": 0}})

    monkeypatch.setattr(job, "preflight", cleared)
    monkeypatch.setattr(job, "run_attempt", lambda *_: (Ending(0, "a", 1, "is gone"), True, False))
    monkeypatch.setattr(job, "_reachable", lambda *_: {"b": (0,)})
    job.launch(run_file, hosts_file=two_hosts, master="10.0.0.1", restarts=1, min_hosts=1)
    assert masters == ["10.0.0.1", None]


def test_without_a_folder_for_temporary_files_the_variable_is_named(two_hosts, run_file, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", None)
        patched.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
        with pytest.raises(InputError, match="set TMPDIR to one that can"):
            job.launch(run_file, [], hosts_file=two_hosts, launcher="ssh", include="a:0@b", dry_run=True)
