"""The preflight: every problem is named, with its host and its fix, before anything starts."""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from bertnli_launch import envfile, probe
from bertnli_launch.doctor import doctor
from bertnli_launch.preflight import Needs, compare, preflight

from bertnli.common import network
from bertnli.common.errors import InputError
from bertnli.common.installed import installed
from bertnli.common.network import free_port
from tests.conftest import SOURCES, command_line
from tests.support import fake_ssh

FACTS = {
    "python": "3.11.7",
    "bertnli": "0.1.0",
    "source": "abc",
    "torch": "2.13.0",
    "deepspeed": "0.19.8",
    "torch_cuda": "13.0",
    "gpus": 8,
    "driver_problem": None,
    "cores": 64,
    "memory": 64 * 2**30,
    "disk": 100 * 2**30,
    "paths": {"data.train": {"digest": "1"}},
}
NEEDS = Needs(paths={"data.train": Path("/data/train.tsv")}, output=Path("/runs/x"), disk=2**30, memory=2**30)
CPU = {"gpus": 0, "torch_cuda": None, "cores": 4}


# One host against the first


def compared(slots: int = 8, first: dict[str, Any] | None = None, **mine: Any) -> list[str]:
    facts = {"a": {**FACTS, **(first or {})}, "b": {**FACTS, **mine}}
    return compare("b", range(slots), facts["b"], NEEDS, facts)


def test_a_host_like_the_first_has_no_problem():
    assert compared() == []
    assert compared(slots=4, first=CPU, **CPU) == []


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({"torch": "2.12.0"}, r"torch is 2\.12\.0, but 2\.13\.0 on a; ssh b .* -m pip install torch==2\.13\.0"),
        ({"torch": "2.13.0+cpu"}, r"torch is 2\.13\.0\+cpu, but 2\.13\.0 on a; install the build of a$"),
        ({"deepspeed": "0.19.7"}, r"deepspeed is 0\.19\.7, but 0\.19\.8 on a"),
        ({"python": "3.12.1"}, r"python is 3\.12\.1, but 3\.11\.7 on a"),
        ({"bertnli": "0.0.9", "source": "x"}, r"bertnli is 0\.0\.9, but 0\.1\.0 on a"),
        ({"source": "x"}, r"bertnli 0\.1\.0 is not the same code as on a"),
        ({"deepspeed": None}, r"deepspeed is not installed; ssh b .*bertnli\[train\]"),
        ({"gpus": 4}, r"slot 7 is requested \(slots count from 0\), but it has 4 GPUs; lower slots="),
        ({"gpus": 0}, r"it has no GPUs, but a has; use hosts of one kind"),
        ({"torch_cuda": None}, r"its torch 2\.13\.0 is built without CUDA"),
        ({"driver_problem": "CUDA error 803"}, r"its GPUs cannot be used: CUDA error 803"),
        ({"paths": {"data.train": {"problem": "No such file"}}}, r"data\.train: /data/train\.tsv: No such file; copy"),
        ({"paths": {"data.train": {"digest": "2"}}}, r"data\.train: /data/train\.tsv is not the same as on a"),
        ({"memory": 2**30}, r"1\.0 GiB of memory free, 8\.0 GiB needed for 8 ranks"),
        ({"disk": 2**29}, r"0\.5 GiB free for /runs/x, 1\.0 GiB needed for its checkpoints"),
    ],
)
def test_each_difference_is_named_with_its_fix(mine, message):
    (problem,) = compared(**mine)
    assert re.search(message, problem)


def test_slots_are_processes_where_there_are_no_gpus():
    (problem,) = compared(slots=5, first=CPU, **CPU)
    assert "5 slots are requested, one process each, but it has 4 cores" in problem
    (problem,) = compared(first=CPU)
    assert "it has GPUs, but a has none that torch can use" in problem


def test_the_same_fingerprint_only_for_the_same_content(tmp_path):
    def of(path: Path) -> str:
        return probe.fingerprint(path)["digest"]

    large, folder = tmp_path / "large", tmp_path / "model"
    with large.open("wb") as file:
        file.truncate(70 * 2**20)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    seen = {of(large), of(folder)}
    with large.open("r+b") as file:  # its last byte
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    seen.add(of(large))
    with large.open("r+b") as file:
        file.truncate(70 * 2**20 + 1)
    seen.add(of(large))
    (folder / "config.json").write_text("[]")
    seen.add(of(folder))
    (folder / "config.json").rename(folder / "other.json")
    seen.add(of(folder))
    assert len(seen) == 6
    assert of(folder) in seen
    assert probe.fingerprint(tmp_path / "none") == {"problem": "No such file or directory"}


# All hosts, over an ssh that stays on this machine


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """The folder of a stand-in for ssh to which every host is this machine."""
    folder = fake_ssh.install(tmp_path)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    for name in (network.GLOO, network.NCCL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", SOURCES)
    return folder


def looked_at(needs: Needs | None = None, *, names: str = "ab", port: int | None = None, slots: int = 1) -> str:
    """The table that the preflight shows; an error of the preflight is raised with the table in front."""
    shown: list[str] = []
    environment = envfile.passed_on(os.environ)
    try:
        cleared = preflight(
            {name: tuple(range(slots)) for name in names},
            needs or Needs(),
            environment,
            master=None,
            port=port or free_port(),
            show=shown.append,
        )
    except InputError as error:
        raise InputError(
            shown[0].splitlines()[0], lines=[*shown[0].splitlines()[1:], *str(error).splitlines()]
        ) from error
    finally:
        alive = [child for child in psutil.Process().children(True) if child.status() != psutil.STATUS_ZOMBIE]
        assert not [child for child in alive if "bertnli_launch.probe" in command_line(child)]
    assert cleared.master == "127.0.0.1"
    return shown[0]


def test_a_row_for_each_host_and_nothing_left_behind(hosts, tmp_path):
    (tmp_path / "train.tsv").write_text("x")
    fake_ssh.before(hosts, "b", "echo Welcome to b; echo motd >&2")
    needs = Needs(paths={"data.train": tmp_path / "train.tsv"}, output=tmp_path / "runs" / "new")
    head, *rows = looked_at(needs).splitlines()
    assert head.split()[:4] == ["host", "slots", "devices", "python"]
    assert [row.split()[0] for row in rows] == ["a", "b"] and all(row.endswith("ok") for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "train.tsv"]


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (255, "ssh: connect to host b port 22: No route to host", "ssh does not reach it .*No route.*: ssh b true"),
        (255, "root@b: Permission denied (publickey).", "ssh asks for a password .*ssh-copy-id b"),
        (255, "Host key verification failed.", "does not know its host key"),
        (127, "env: python: No such file or directory", "cannot be run there .*the same Python at the same path"),
        (1, "python: No module named launch", "bertnli does not run there .*No module named launch.*pip install"),
    ],
)
def test_a_host_that_cannot_be_asked(hosts, code, message, expected):
    fake_ssh.failing(hosts, "b", code, message)
    with pytest.raises(InputError, match=expected) as caught:
        looked_at()
    assert "1 problem; nothing was started\n  b: " in str(caught.value)
    assert re.search(r"^b +1 +\?.* 1 problem$", str(caught.value), re.MULTILINE)


def test_without_ssh_here(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="ssh is not installed here; apt-get install openssh-client"):
        preflight({"a": (0,)}, Needs(), {}, master=None, port=free_port())


def test_the_first_host_can_be_the_one_out_of_reach(hosts):
    fake_ssh.failing(hosts, "a", 255, "timed out")
    with pytest.raises(InputError, match=r"1 problem; nothing was started\n  a: ssh does not reach it"):
        looked_at()


def test_all_problems_at_once(hosts, tmp_path):
    """Other packages, another clock and a missing file on b; c out of reach."""
    other = tmp_path / "other"
    (other / "torch-2.0.0.dist-info").mkdir(parents=True)
    (other / "torch-2.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n")
    (other / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 90\n")
    (tmp_path / "train.tsv").write_text("x")
    (tmp_path / "model").mkdir()
    # the command sets PYTHONPATH itself, so it is changed where python starts
    fake_ssh.before(hosts, "b", f'set -- "$(echo "$*" | sed s#PYTHONPATH=#PYTHONPATH={other}:#)"')
    fake_ssh.failing(hosts, "c", 255, "timed out")
    with pytest.raises(InputError) as caught:
        looked_at(Needs(paths={"model": tmp_path / "model", "data.train": tmp_path / "none.tsv"}), names="abc")
    problems = str(caught.value).partition("nothing was started\n")[2].splitlines()
    for problem, expected in zip(
        problems,
        (
            r"a: data\.train: .*none\.tsv: No such file",
            r"b: torch is 2\.0\.0, but",
            r"b: data\.train: .*none\.tsv: No such file",
            r"b: its clock is (89|90)\.\d s ahead of that of a",
            r"c: ssh does not reach it",
        ),
        strict=True,
    ):
        assert re.search(expected, problem), problems


def test_a_taken_port_names_who_has_it_and_a_free_one(hosts):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as caught:
            looked_at(port=port)
    assert f"a: port {port} is taken by {psutil.Process().name()} (process {os.getpid()})" in str(caught.value)
    assert re.search(r"give --master-port \d+", str(caught.value))


@pytest.mark.skipif(network.source_address("::1") is None, reason="no IPv6 here")
@pytest.mark.parametrize("master", ["127.0.0.1", "::1"])
def test_a_master_answers_on_addresses_of_both_kinds(monkeypatch, master):
    monkeypatch.delenv(network.GLOO, raising=False)
    port = free_port()
    answer = probe.listen(network.GLOO, master, [port], "token")
    assert "problem" not in answer, answer
    assert probe.connect(master, [(master, port), answer["to"]], "token") == {"problems": [None, None]}


def test_a_visitor_that_breaks_off_leaves_a_port_open_to_the_next(monkeypatch):
    threads: list[threading.Thread] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: threads.append(failed.thread))
    answer = probe.listen(network.GLOO, "127.0.0.1", [], "token")
    for _ in range(20):
        with socket.create_connection(tuple(answer["to"])) as visitor:
            visitor.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # a reset when it is closed
    with socket.create_connection(tuple(answer["to"])) as visitor:
        assert visitor.recv(100) == b"token" and not threads


def test_an_address_with_its_port():
    assert network.with_port("10.0.0.1", 29500) == "10.0.0.1:29500"
    assert network.with_port("fd00::1", 29500) == "[fd00::1]:29500"


def test_an_interface_that_is_not_there(hosts, monkeypatch):
    monkeypatch.setenv(network.GLOO, "eth77")
    with pytest.raises(InputError, match=r"b: GLOO_SOCKET_IFNAME is 'eth77', but the interfaces .* are .*lo"):
        looked_at()


def test_an_output_that_cannot_be_written(hosts, tmp_path):
    with pytest.raises(InputError, match=r"a: output /proc/none/x: .*; name a folder that can be written"):
        looked_at(Needs(output=Path("/proc/none/x")))


def test_too_few_slots(hosts):
    with pytest.raises(InputError, match=r"a: 999 slots are requested.*\n  b: 999 slots"):
        looked_at(slots=999)


# Which interface


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (network.GLOO, None, "eth1"),
        (network.GLOO, "eth0", "eth0"),
        (network.GLOO, "ib0,eth10", "eth10"),
        (network.GLOO, "eth", None),
        (network.NCCL, "eth", "eth1"),
        (network.NCCL, "=eth", None),
        (network.NCCL, "=eth10", "eth10"),
        (network.NCCL, "^eth", "lo"),
        (network.NCCL, "^=eth1", "lo"),
        (network.NCCL, "ib", None),
    ],
)
def test_the_interface_that_ranks_will_use(monkeypatch, variable, value, expected):
    cards = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"], "eth1": ["10.0.1.1"], "eth10": ["10.0.2.1"]}
    monkeypatch.setattr(network, "addresses", lambda: cards)
    monkeypatch.setattr(network, "source_address", lambda address: "10.0.1.1")
    environment = {} if value is None else {variable: value}
    assert network.chosen_interface(variable, environment, "10.0.1.9") == expected


@pytest.mark.parametrize(
    ("environment", "one_host", "expected"),
    [
        ({"MASTER_ADDR": "127.0.0.1"}, True, {"lo"}),
        ({"MASTER_ADDR": "127.0.0.1"}, False, set()),
        ({"MASTER_ADDR": "no-such-host.invalid"}, True, set()),
        ({}, True, set()),
    ],
)
def test_interfaces_from_the_route_to_the_master(environment, one_host, expected):
    found = dict(environment)
    network.set_interfaces(found, one_host=one_host)
    assert {found[name].lstrip("=") for name in (network.GLOO, network.NCCL) if name in found} == expected
    kept = {**environment, network.GLOO: "mine", network.NCCL: "mine"}
    network.set_interfaces(kept, one_host=one_host)
    assert kept[network.GLOO] == kept[network.NCCL] == "mine"


# doctor


def test_doctor_says_what_is_here_and_what_is_not(capsys, monkeypatch):
    packages = installed(("torch",))
    monkeypatch.setattr("bertnli_launch.doctor.installed", lambda _: packages)
    monkeypatch.setenv("PATH", "/nowhere")
    doctor()
    out = capsys.readouterr().out
    assert f"on Python {sys.version.split()[0]}" in out
    assert f"torch: {packages['torch']}" in out
    assert "deepspeed: not installed; to train: pip install 'bertnli[train]'" in out
    assert "pdsh: not installed; for jobs on many hosts: apt-get install pdsh" in out


def test_doctor_leaves_hidden_gpus_hidden(capsys, monkeypatch):
    """On this machine; slots of a hostfile number all GPUs of a host."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    doctor()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert "GPUs: none" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", [])
    probe.main()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_doctor_with_a_hostfile_is_the_preflight(hosts, tmp_path, capsys):
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    fake_ssh.failing(hosts, "b", 255, "timed out")
    with pytest.raises(InputError, match="b: ssh does not reach it"):
        doctor(str(tmp_path / "hosts"), port=free_port())
    assert capsys.readouterr().out.startswith("host ")


def test_doctor_checks_a_bundle(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    import shutil

    from tests.support import tiny

    shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    doctor(bundle=tmp_path / "bundle")
    assert "complete; " in capsys.readouterr().out
    with (tmp_path / "bundle" / "tokenizer.json").open("r+b") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        doctor(bundle=tmp_path / "bundle")
