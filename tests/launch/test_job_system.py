"""Jobs on several hosts (support/hosts.py): the same weights as on one host, and problems that are named before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bertnli.common.cores import usable_cores
from tests.conftest import ROOT
from tests.support.clusterruns import SETTINGS, bertnli, clean, same, sets
from tests.support.hosts import Host, cluster, hostfile, why_not
from tests.support.runs import weights

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]

# A job that runs


@pytest.mark.parametrize("launcher", ["pdsh", "ssh"])
def test_two_hosts_train_what_one_host_does(two, work, tmp_path, on_one_host, launcher):
    output = f"runs/{launcher} $(touch owned)"
    hosts = hostfile(tmp_path / "hosts", a=1, b=1)
    (tmp_path / "job.env").write_text("# for all\n\nNOBODY_READS='$(touch owned) \"; touch owned'\n")
    done = bertnli(
        *(two["a"], work, "launch", "run me.yaml", "--hostfile", hosts, "--launcher", launcher, "--json"),
        *("--env-file", tmp_path / "job.env", *sets(f"output={output}", *SETTINGS)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["ranks"], summary["steps"]) == (2, 12)
    assert re.search(r"^b +1 .* ok$", done.stdout, re.MULTILINE)
    assert same(weights(work / output), on_one_host)
    assert clean(two, work)


def test_what_a_dry_run_prints_can_be_pasted(two, work, tmp_path, on_one_host):
    launch = ["launch", "run me.yaml", "--hostfile", hostfile(tmp_path / "hosts", a=1, b=1)]
    shown = bertnli(two["a"], work, *launch, "--dry-run", *sets("output=runs/pasted", *SETTINGS))
    assert shown.returncode == 0 and not (work / "runs" / "pasted").exists(), shown.stderr
    assert "a slots=1\nb slots=1\n" in shown.stdout and "deepspeed" in shown.stdout
    done = two["a"].run("sh", "-c", shown.stdout[shown.stdout.index("mkdir") :], timeout=150)
    assert done.returncode == 0, done.stderr
    assert same(weights(work / "runs" / "pasted"), on_one_host)
    assert clean(two, work)


# Problems before the start


def refused(host: Host, work: Path, tmp_path: Path, *options: str, slots: dict[str, int], **env: str) -> list[str]:
    """The problems that the preflight names; nothing was started or made."""
    hosts = hostfile(tmp_path / "hosts", **slots)
    output = "runs/never/made"
    done = bertnli(host, work, "launch", "run me.yaml", "--hostfile", hosts, *options, *sets(f"output={output}"), **env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing was started" in done.stderr and not (work / "runs" / "never").exists()
    assert len(done.stdout.splitlines()) == 1 + len(slots)  # the table
    return [line.strip() for line in done.stderr.partition("nothing was started")[2].splitlines() if line]


def test_an_unreachable_host(two, work, tmp_path):
    two["b"].cut()
    try:
        (problem,) = refused(two["a"], work, tmp_path, slots={"a": 1, "b": 1})
    finally:
        two["b"].reconnect()
    assert re.match(r"b: ssh does not reach it .*timed out", problem)


def test_too_few_slots(two, work, tmp_path):
    cores = usable_cores()
    problem, *_ = refused(two["a"], work, tmp_path, slots={"a": 1, "b": cores + 1})
    assert problem.startswith(f"b: {cores + 1} slots are requested, one process each, but it has {cores} cores")


def test_a_taken_port(two, work, tmp_path):
    program = "import socket, sys; s = socket.create_server(('', 29500)); print('ready', flush=True); sys.stdin.read()"
    taking = two["a"].start_command(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert taking.stdout.readline() == "ready\n"
        (problem,) = refused(two["a"], work, tmp_path, slots={"a": 1, "b": 1})
    finally:
        taking.communicate()
    assert re.match(r"a: port 29500 is taken by python\S* \(process \d+\); give --master-port 29501", problem)


def test_an_interface_that_reaches_nobody(two, work, tmp_path):
    problems = refused(two["a"], work, tmp_path, slots={"a": 1, "b": 1}, GLOO_SOCKET_IFNAME="lo")
    assert [re.match(r"(.): from lo \(127\.0\.0\.1\) it does not reach (.)", line).groups() for line in problems] == [
        ("a", "b"),
        ("b", "a"),
    ]
    problems = refused(two["a"], work, tmp_path, slots={"a": 1, "b": 1}, GLOO_SOCKET_IFNAME="ens5")
    assert "b: GLOO_SOCKET_IFNAME is 'ens5', but the interfaces with an address are lo, eth0" in problems[1]


def test_an_address_that_is_not_the_masters(two, work, tmp_path):
    (problem,) = refused(two["a"], work, tmp_path, "--master-addr", two["b"].address, slots={"a": 1, "b": 1})
    assert problem.startswith(f"a: {two['b'].address} is not an address of this host")


def test_hosts_that_differ(work, tmp_path):
    """Each host in another way, and all are named at once: clock, package, our own code, data, output, no bertnli."""
    package = metadata.distribution("deepspeed")
    about = package.locate_file(f"deepspeed-{package.version}.dist-info/METADATA")
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.18.0\n")
    (tmp_path / "labels.py").write_text((ROOT / "bertnli" / "data" / "labels.py").read_text() + "\n# changed\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (work / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'bertnli_launch'\")"
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "__init__.py").write_text(missing)
    hosts = {
        "a": {},
        "late": {"clock": "-30s"},
        "older": {"mounts": {about: tmp_path / "METADATA"}},
        "patched": {"mounts": {ROOT / "bertnli" / "data" / "labels.py": tmp_path / "labels.py"}},
        "stale": {"mounts": {work / "train; rows.jsonl": tmp_path / "rows.jsonl"}},
        "apart": {"mounts": {work / "runs": tmp_path / "runs"}},
        "bare": {"mounts": {ROOT / "launch" / "bertnli_launch": tmp_path / "missing"}},
    }
    with cluster(tmp_path, **hosts) as made:
        problems = refused(made["a"], work, tmp_path, slots=dict.fromkeys(hosts, 1))
    expected = [
        r"late: its clock is (29|30)\.\d s behind that of a; synchronize it",
        rf"older: deepspeed is 0\.18\.0, but {package.version} on a; ssh older .* pip install deepspeed==",
        r"patched: bertnli .* is not the same code as on a",
        r"stale: data\.train: .*train; rows\.jsonl is not the same as on a",
        r"apart: output .*/never/made is not shared with a: .*\(No such file or directory\)",
        r"bare: bertnli does not run there \(.*launch.*\); install the same version: ssh bare .* -m pip install",
    ]
    assert len(problems) == len(expected)
    for problem, pattern in zip(problems, expected, strict=True):
        assert re.match(pattern, problem), problem
