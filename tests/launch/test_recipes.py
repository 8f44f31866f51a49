"""The recipes of launch/recipes: their commands are valid, and the Kubernetes and container files fit together.

test_recipes_system.py shows that they work.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml
from bertnli_launch import envfile, hostfile

from bertnli.cli import app
from bertnli.common.network import free_port
from bertnli.run.run_file import validate_run
from tests.conftest import ROOT, environment
from tests.support.pages import blocks, commands

RECIPES = ROOT / "launch" / "recipes"
PAGES = sorted(RECIPES.glob("*.md"))


COMMAND: Any = typer.main.get_command(app)


def parsed(program: str) -> list[Any]:
    found = [(page, words) for page in PAGES for words in commands(page, program)]
    return [pytest.param(words, id=f"{page.stem}: {' '.join(words)}") for page, words in found]


@pytest.mark.parametrize("words", parsed("bertnli"))
def test_commands_parse(words):
    command = COMMAND.commands[words[1]]
    command.make_context(words[1], words[2:])  # raises on an option or argument that does not exist


@pytest.mark.parametrize("words", parsed("deepspeed"))
def test_deepspeed_commands_parse(words):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    given = runner.parse_args(words[1:])
    assert (given.module, given.user_script) == (True, "bertnli.train")


@pytest.mark.parametrize("words", parsed("torchrun"))
def test_torchrun_commands_parse(words):
    from torch.distributed.run import parse_args

    given = parse_args([word.replace("$NODE_RANK", "0") for word in words[1:]])
    assert (given.module, given.training_script) == (True, "bertnli.train")


def test_each_is_a_page_and_says_what_to_change():
    table = (RECIPES / "README.md").read_text()
    for path in RECIPES.iterdir():
        assert len(path.read_text().splitlines()) <= 100, path.name
        if path.name != "README.md":
            assert f"]({path.name})" in table, f"{path.name} is not in the table"
            marked = path.read_text() + "".join(other.read_text() for other in PAGES if other.stem == path.stem)
            assert "CHANGE" in marked, path.name


def test_the_hostfile_and_the_env_file_are_valid(tmp_path):
    page = RECIPES / "hostfile.md"
    (hosts,) = blocks(page, "text")
    (tmp_path / "hosts").write_text(hosts)
    assert hostfile.read(tmp_path / "hosts") == {"node-1": tuple(range(8)), "node-2": tuple(range(8))}
    (variables,) = [block for block in blocks(page, "sh") if block.startswith("# CHANGE: NAME=VALUE")]
    (tmp_path / "job.env").write_text(variables)
    assert envfile.read(tmp_path / "job.env") == {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "WARN"}


def test_what_the_page_says_is_passed_on():
    text = " ".join((RECIPES / "hostfile.md").read_text().split())
    (said,) = re.findall(
        r"PATH, LD_LIBRARY_PATH, the virtual environment, and all that begin with (.*?) \(but not tokens\)", text
    )
    names = [name + "X" for name in re.split(", | or ", said)]
    assert len(names) == 8
    given = dict.fromkeys([*names, "PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"], "x")
    assert envfile.passed_on({**given, "HF_TOKEN": "secret", "SECRET": "x"}) == given


# Kubernetes

MANIFESTS = {manifest["kind"]: manifest for manifest in yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())}
JOB = MANIFESTS["Job"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
OPTIONS = dict(word[2:].split("=") for word in CONTAINER["args"] if word.startswith("--"))


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", ["ConfigMap", "PersistentVolumeClaim", "Service", "Job"])
def test_kubernetes_takes_it(kind, version):
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_kubernetes_schemas_find_mistakes():
    """A key that does not exist is what `strict` is for."""
    with pytest.raises(kubernetes_validate.ValidationError):
        broken = {**MANIFESTS["Job"], "spec": {**JOB, "podFailurePolicies": {}}}
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_the_run_file_in_the_manifest_is_valid():
    validate_run(yaml.safe_load(MANIFESTS["ConfigMap"]["data"]["run.yaml"]), "kubernetes.yaml")


def test_pod_0_has_the_name_that_the_others_look_for():
    """An Indexed Job's pods are called JOB-INDEX; DNS knows them below the headless Service that is their subdomain."""
    job, service = MANIFESTS["Job"]["metadata"]["name"], MANIFESTS["Service"]
    assert JOB["completionMode"] == "Indexed"
    assert OPTIONS["master-addr"] == f"{job}-0.{service['metadata']['name']}"
    assert POD["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job}  # a label that every pod of the Job has
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True  # or pod 0 has no name while it waits for the others


def test_there_is_one_torchrun_for_each_index():
    """With fewer pods at a time than completions, all would wait for one that is never started."""
    assert JOB["completions"] == JOB["parallelism"] == int(OPTIONS["nnodes"])
    assert OPTIONS["node-rank"] == "$(JOB_COMPLETION_INDEX)"  # which Kubernetes fills in


def test_all_pods_share_the_storage_of_the_run():
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in CONTAINER["volumeMounts"]}
    claim = MANIFESTS["PersistentVolumeClaim"]
    assert mounted["/shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # ReadWriteOnce: one node's pods alone
    assert CONTAINER["workingDir"] == "/shared"  # where the run file's relative paths begin
    assert Path(ENVIRONMENT["BERTNLI_CACHE"]).is_relative_to("/shared")
    assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"  # NCCL's, which 64 MiB do not hold
    assert mounted["/etc/bertnli"]["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]
    assert CONTAINER["args"][-1] == "/etc/bertnli/run.yaml"


def test_a_pod_has_time_for_a_checkpoint():
    """SIGKILL comes from torchrun (by default after 30 s) and from Kubernetes (after the grace period)."""
    torchruns = int(ENVIRONMENT["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 30 < torchruns < POD["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("code", "disrupted", "verdict"),
    [
        (2, False, "FailJob"),  # the input is wrong, and would be again
        (143, True, "Ignore"),  # this pod was evicted
        (137, True, "Ignore"),  # and took too long
        (143, False, "Ignore"),  # another pod was
        (1, False, "Count"),
        (137, False, "Count"),  # out of memory
    ],
)
def test_what_becomes_of_a_pod_that_failed(code, disrupted, verdict):
    """The first rule that fits counts (kubernetes.io/docs/concepts/workloads/controllers/job, pod failure policy)."""
    assert POD["restartPolicy"] == "Never"  # the policy needs it
    for rule in JOB["podFailurePolicy"]["rules"]:
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions", [])
        assert codes is None or codes["containerName"] == CONTAINER["name"]
        if disrupted and {"type": "DisruptionTarget", "status": "True"} in conditions:
            break
        if codes is not None and codes["operator"] == "In" and code in codes["values"]:
            break
    else:
        rule = {"action": "Count"}
    assert rule["action"] == verdict


def test_one_rank_that_fails_may_fail_every_pod_several_times():
    assert JOB["backoffLimit"] >= 2 * JOB["completions"]
    assert JOB["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}  # rank 0 is there, which writes the model


@pytest.mark.parametrize("words", commands(RECIPES / "kubernetes.md", "kubectl"), ids=shlex.join)
def test_what_kubectl_is_given_fits_the_manifest(words):
    """The tests have neither kubectl nor a cluster."""
    name = MANIFESTS["Job"]["metadata"]["name"]
    if "job" in words:
        assert words[words.index("job") + 1] == name
    if "-f" in words and words[1] == "apply":
        assert words[words.index("-f") + 1] == "kubernetes.yaml"
    if "-l" in words:
        labels = dict(label.split("=") for label in words[words.index("-l") + 1].split(","))
        assert labels == {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/job-completion-index": "0"}
    if words[1] == "patch":
        patch = json.loads(words[words.index("-p") + 1])
        assert list(patch) == ["spec"]
        kubernetes_validate.validate({**MANIFESTS["Job"], "spec": {**JOB, **patch["spec"]}}, "1.31", strict=True)


def torchrun(*command: str) -> subprocess.Popen[str]:
    """The container's own lines, with one rank that is `command`."""
    assert CONTAINER["command"][:2] == ["python", "-c"]
    words = [sys.executable, "-c", CONTAINER["command"][2], f"--master-port={free_port()}", "--no-python", *command]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("command", "code"), [("exit 2", 2), ("kill -KILL 0", 137)])
def test_the_container_ends_as_its_rank_ends(command, code):
    """torchrun's own exit code would be 1."""
    process = torchrun("sh", "-c", command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors


def test_sigterm_reaches_the_rank_and_the_exit_code_is_143(tmp_path):
    rank = f"trap 'touch {tmp_path}/told; exit 143' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
    process = torchrun("sh", "-c", rank)
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert (tmp_path / "told").exists()


# The container

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: name and argument of each, lines joined."""
    text = re.sub(r"^#.*\n", "", (RECIPES / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def only(name: str) -> str:
    (argument,) = [argument for found, argument in instructions() if found == name]
    return argument


def copied() -> set[str]:
    return {source for name, argument in instructions() if name == "COPY" for source in argument.split()[:-1]}


def test_the_image_has_all_that_is_installed():
    for source in copied():
        assert (ROOT / source).exists(), source
    project = PROJECT["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert copied() == needed | {
        folder.split("/")[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()
    }
    for name, argument in instructions():
        if name == "COPY" and (ROOT / argument.split()[0]).is_dir():
            source, target = argument.split()
            assert target == source  # COPY of a folder copies what is in it


def test_the_image_is_a_users_and_kubernetes_can_see_it():
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(number for number, name in enumerate(names) if name in ("RUN", "COPY"))
    user = int(only("USER"))  # runAsNonRoot asks for a number
    assert user != 0 and user == POD["securityContext"]["runAsUser"] and POD["securityContext"]["runAsNonRoot"]
    assert f"useradd --uid {user} " in " ".join(argument for name, argument in instructions() if name == "RUN")
    assert only("ENTRYPOINT") == '["bertnli"]' and "bertnli" in PROJECT["project"]["scripts"]
    assert [argument for name, argument in instructions() if name == "WORKDIR"][-1] == CONTAINER["workingDir"]


def test_the_image_has_a_python_that_bertnli_runs_on():
    (version,) = re.findall(r"^docker\.io/library/python:3\.(\d+)-slim$", only("FROM"))
    (least,) = re.findall(r">=3\.(\d+)", PROJECT["project"]["requires-python"])
    assert int(version) >= int(least)


@pytest.mark.parametrize("spec", ["", "torch==2.11.0"])
def test_the_image_installs_the_tested_versions_or_the_torch_that_was_asked_for(tmp_path, spec):
    """The Containerfile's own line, with a pip that writes down what it is given."""
    (install,) = [argument for name, argument in instructions() if name == "RUN" and "pip install" in argument]
    assert only("ARG") == 'TORCH_SPEC=""'
    (tmp_path / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > given\n')
    (tmp_path / "bin" / "pip").chmod(0o755)
    paths = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    subprocess.run(["sh", "-c", install], cwd=tmp_path, env={"PATH": paths, "TORCH_SPEC": spec}, check=True)
    given = (tmp_path / "given").read_text().splitlines()
    assert given == ["install", "--no-cache-dir", "-c", "constraints.txt", *filter(None, [spec]), ".[train,export]"]
    assert {"train", "export"} <= set(PROJECT["project"]["optional-dependencies"])
    pinned = (tmp_path / "constraints.txt").read_text()
    assert ("\ntorch==" in pinned) == (not spec) and "\ndeepspeed==" in pinned


@pytest.mark.parametrize("words", [words for page in PAGES for words in commands(page, "docker")], ids=shlex.join)
def test_what_docker_is_given_fits_the_containerfile(words):
    """The tests do not have docker."""
    if words[1] == "build":
        assert (ROOT / words[words.index("-f") + 1]).samefile(RECIPES / "Containerfile")
        assert words[-1] == "."  # the repository's root: COPY counts from it
        arguments = [words[number + 1].partition("=")[0] for number, word in enumerate(words) if word == "--build-arg"]
        assert set(arguments) <= {"TORCH_SPEC"}
    elif words[1] == "run":
        image = words.index("bertnli")
        command = COMMAND.commands[words[image + 1]]
        command.make_context(words[image + 1], words[image + 2 :])
        volume = words[words.index("-v") + 1]
        assert volume.partition(":")[2] == CONTAINER["workingDir"]
