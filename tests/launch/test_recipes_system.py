"""The recipes of launch/recipes, changed only where they say CHANGE: on two hosts, and without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bertnli.run.folder import steps_in
from tests.conftest import SOURCES, environment
from tests.launch.test_recipes import CONTAINER, ENVIRONMENT, OPTIONS, RECIPES
from tests.support import tiny
from tests.support.clusterruns import SETTINGS, STEPS, Hold, clean, own, same
from tests.support.hosts import Host, why_not
from tests.support.http_stand_in import Hosted, StandIn
from tests.support.pages import blocks, changed
from tests.support.runs import weights

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The beginning of a PATH with `bertnli`, `deepspeed` and `torchrun`, as where bertnli is installed."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "bertnli").write_text(f'#!/bin/sh\nexec {sys.executable} -m bertnli.cli "$@"\n')
    (folder / "bertnli").chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}"


def write_run(path: Path, work: Path, output: str, **keys: object) -> None:
    """The run file of the folder `work`, which all hosts share, as a page's reader would write it."""
    content = yaml.safe_load((work / "run me.yaml").read_text())
    content |= {name: yaml.safe_load(value) for name, value in (setting.split("=") for setting in SETTINGS)}
    path.write_text(yaml.safe_dump({**content, "output": output, **keys}))


def shell(block: str, programs: str, pythonpath: str = SOURCES) -> list[str]:
    """The command that types a block of a page into a shell."""
    return ["sh", "-ec", f"export PATH={programs}:$PATH PYTHONPATH={pythonpath}\n{block}"]


def wait(*started: subprocess.Popen[str]) -> list[int]:
    """The exit codes; the output shows if a test fails."""
    codes = []
    for process in started:
        out, err = process.communicate(timeout=90)
        print(out, err)
        codes.append(process.returncode)
    return codes


PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


# hostfile.md


def test_the_hostfile_page(two, work, plain, programs, on_one_host):
    """Its files and its commands: doctor, a dry run, the job; and DeepSpeed's own launcher."""
    page = RECIPES / "hostfile.md"
    (hosts,) = blocks(page, "text")
    _, variables, job, direct = blocks(page, "sh")
    (work / "hosts").write_text(changed(hosts, {"node-1 slots=8": "a slots=1", "node-2 slots=8": "b slots=1"}))
    (work / "job.env").write_text(variables)
    write_run(work / "run.yaml", work, "runs/page")
    done = two["a"].run(*shell(job, programs), cwd=work, env=own(work), timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^b +1 .* ok$", done.stdout, re.MULTILINE)) == 3  # each command has looked at every host
    assert "deepspeed --quiet --launcher pdsh" in done.stdout  # the dry run
    assert same(weights(work / "runs" / "page"), on_one_host)

    write_run(work / "run.yaml", work, "runs/page-direct")
    (work / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")  # in which it says variables can be given
    done = two["a"].run(*shell(direct, programs), cwd=plain, env=own(work), timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(work / "runs" / "page-direct"), on_one_host)
    assert clean(two, work)


# torchrun.md

THREADS = {"OMP_NUM_THREADS=4": "OMP_NUM_THREADS=1"}  # sums in the same order as in the run to compare with


def test_torchrun_on_one_host(two, work, programs, on_one_host):
    one, _ = blocks(RECIPES / "torchrun.md", "sh")
    write_run(work / "run.yaml", work, "runs/torchrun")
    done = two["a"].run(*shell(changed(one, THREADS), programs), cwd=work, env=own(work), timeout=90)
    assert done.returncode == 0, done.stderr
    assert same(weights(work / "runs" / "torchrun"), on_one_host)


def torchrun_on_many(
    two: dict[str, Host], work: Path, programs: str, pythonpath: str = SOURCES
) -> list[subprocess.Popen[str]]:
    _, many = blocks(RECIPES / "torchrun.md", "sh")
    changes = {**THREADS, "--nproc-per-node 8": "--nproc-per-node 1", "--master-addr node-1": "--master-addr 10.77.0.1"}
    assert two["a"].address == "10.77.0.1"
    return [
        host.start_command(
            *shell(changed(many, {**changes, "NODE_RANK=0": f"NODE_RANK={number}"}), programs, pythonpath),
            cwd=work,
            env=own(work),
            **PIPES,
        )
        for number, host in enumerate(two.values())
    ]


def test_torchrun_on_many_hosts_that_is_stopped_saves_a_checkpoint_and_goes_on(
    two, work, tmp_path, programs, undisturbed
):
    write_run(work / "run.yaml", work, "runs/stopped", max_steps=STEPS)
    hold = Hold(tmp_path, rank=1)
    started = torchrun_on_many(two, work, programs, hold.pythonpath)
    hold.wait()
    (launcher,) = two["b"].pids("--nproc-per-node")  # on the host that rank 0 is not on
    psutil.Process(launcher).terminate()
    assert 0 not in wait(*started)
    assert clean(two, work)
    assert 0 < steps_in(work / "runs" / "stopped" / "checkpoints")[-1] < STEPS
    assert wait(*torchrun_on_many(two, work, programs)) == [0, 0]
    assert same(weights(work / "runs" / "stopped"), undisturbed)


# kubernetes.yaml: its container in processes, a host in place of each pod


def pods(two: dict[str, Host], work: Path, run_file: Path, pythonpath: str = SOURCES) -> list[subprocess.Popen[str]]:
    """What Kubernetes would start: the container's command, arguments and environment, its `$(NAME)` filled in."""
    changes = {
        "/shared": str(work),
        "/etc/bertnli/run.yaml": str(run_file),
        OPTIONS["master-addr"]: two["a"].address,  # which DNS would say
        "--nproc-per-node=gpu": "--nproc-per-node=1",
    }
    started = []
    for index, host in enumerate(two.values()):
        words = [*CONTAINER["command"], *CONTAINER["args"]]
        assert words.pop(0) == "python"
        variables = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONPATH": pythonpath}
        for old, new in {**changes, "$(JOB_COMPLETION_INDEX)": str(index)}.items():
            words = [word.replace(old, new) for word in words]
            variables = {name: value.replace(old, new) for name, value in variables.items()}
        started.append(host.start_command(sys.executable, *words, cwd=work, env=variables, **PIPES))
    return started


def test_wrong_input_ends_every_pod_with_the_exit_code_that_fails_the_job(two, work, tmp_path):
    write_run(tmp_path / "run.yaml", work, "runs/wrong pods", epoch=3)
    assert wait(*pods(two, work, tmp_path / "run.yaml")) == [2, 2]


def test_pods_stop_with_a_checkpoint_when_one_is_evicted_and_go_on(two, work, tmp_path, undisturbed):
    write_run(tmp_path / "run.yaml", work, "runs/evicted", max_steps=STEPS)
    hold = Hold(tmp_path, rank=1)
    started = pods(two, work, tmp_path / "run.yaml", hold.pythonpath)
    hold.wait()
    (first_process,) = two["b"].pids("--node-rank=1")
    psutil.Process(first_process).terminate()  # as an eviction does
    assert wait(*started) == [143, 143]
    assert clean(two, work)
    assert wait(*pods(two, work, tmp_path / "run.yaml")) == [0, 0]
    assert same(weights(work / "runs" / "evicted"), undisturbed)


# offline.md


@pytest.fixture
def network(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables by which `bertnli` finds a model hub and a data set of the catalogue on this machine."""
    tiny.hf_folder(tmp_path / "model")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("rows.jsonl", "".join(json.dumps(row) + "\n" for row in tiny.snli_rows(300)))
    with StandIn() as server:
        server.add_model("org/tiny", {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()})
        server.files["/rows.zip"] = Hosted(stream.getvalue())
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            "from dataclasses import replace\nfrom bertnli.fetch.catalog import CATALOG\n"
            "from bertnli.fetch.entry import Archive, Unpacked\n"
            f"checksum = 'sha256:{hashlib.sha256(stream.getvalue()).hexdigest()}'\n"
            f"archive = Archive('rows.zip', checksum, 10**7, url={server.url('/rows.zip')!r})\n"
            "sources = (Unpacked(archive, {'rows.jsonl': 'rows.jsonl'}),)\n"
            "files = {'rows.jsonl': None}\n"
            "CATALOG['rows'] = replace(CATALOG['snli'], name='rows', files=files, sources=sources)\n"
        )
        yield {"PYTHONPATH": f"{tmp_path / 'site'}:{SOURCES}", "HF_ENDPOINT": server.url("")}


def test_nodes_without_a_network(tmp_path, network, programs):
    head, node = blocks(RECIPES / "offline.md", "sh")
    cache = {"/shared/cache": str(tmp_path / "shared cache")}
    cache = {"=/shared/cache": f"={shlex.quote(cache['/shared/cache'])}"}
    names = {"bertnli fetch minilm": "bertnli fetch org/tiny", "bertnli fetch snli-100k": "bertnli fetch rows"}
    content = {"model": "org/tiny", "data": {"train": "rows"}, "output": "run", "max_steps": 4, "report_to": "none"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**content, "global_batch_size": 16, "precision": "fp32"}))
    variables = {**environment(**network), "PATH": f"{programs}:{os.environ['PATH']}"}

    def typed(block: str, *before: str) -> subprocess.CompletedProcess[str]:
        words = [*before, "sh", "-ec", block]
        return subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=90)

    cut_off = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    reached = typed(f"{sys.executable} -c 'import socket, os; socket.create_connection((\"10.77.0.1\", 9))'", *cut_off)
    assert "Network is unreachable" in reached.stderr

    done = typed(changed(head, {**cache, **names}))
    assert done.returncode == 0, done.stderr
    done = typed(changed(node, cache), *cut_off)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()

    shutil.rmtree(tmp_path / "run")
    done = typed(changed(node, {"=/shared/cache": f"={tmp_path / 'another'}"}), *cut_off)
    assert done.returncode in (1, 2)
    assert "BERTNLI_CACHE" in done.stderr and "bertnli fetch org/tiny" in done.stderr
    assert not (tmp_path / "run").exists()
