"""Other people's modules called export or launch are in nobody's way: a script export.py, YOLOv5's, ROS 2's launch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import PACKAGES, ROOT, SOURCES, environment
from tests.support import fake_ssh, tiny

NAMES = ("export", "launch")
RUN = "model: model\ndata: {train: pairs.jsonl}\noutput: run\nmax_steps: 1\nglobal_batch_size: 8\nreport_to: none\n"
# Those that start processes of their own are run as they are, the others one after the other in one process.
TOGETHER = [
    ["--help"],
    ["fetch", "--list"],
    ["doctor"],
    ["export", "model", "bundle"],
    ["verify", "bundle"],
    ["eval", "bundle", "pairs.jsonl"],
    ["score", "bundle", "pairs.jsonl", "one.tsv"],
    ["launch", "run.yaml", "--hostfile", "none"],  # an error of the hostfile's, from inside bertnli_launch
]
APART = [
    ["score", "bundle", "pairs.jsonl", "two.tsv", "--workers", "2"],
    ["train", "run.yaml", "--ranks", "2"],
    ["launch", "run.yaml", "--set", "output=launched", "--hostfile", "hosts", "--launcher", "ssh"],
]
PROGRAM = """
import json, sys
from bertnli import cli

codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        cli.main()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
print(codes)
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder to work in, with somebody's modules of these names in it and packages of these names in `first`."""
    fails = "raise ImportError('not ours')\n"
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(fails)
        (tmp_path / "first" / name).mkdir(parents=True)
        (tmp_path / "first" / name / "__init__.py").write_text(fails)
    tiny.hf_folder(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(40)))
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "hosts").write_text("here slots=2\n")
    return tmp_path


@pytest.mark.system
def test_every_command_runs_beside_them(crowded: Path):
    paths = os.pathsep.join([str(crowded / "first"), str(crowded), SOURCES])
    programs = os.pathsep.join([str(fake_ssh.install(crowded)), os.environ["PATH"]])

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=crowded,
            env=environment(PYTHONPATH=paths, PATH=programs),
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = run(sys.executable, "-c", PROGRAM, json.dumps(TOGETHER))
    assert done.stdout.splitlines()[-1] == str([0] * (len(TOGETHER) - 1) + [2]), done.stderr
    assert "Traceback" not in done.stderr
    for arguments in APART:
        done = run(sys.executable, "-m", "bertnli.cli", *arguments)
        assert done.returncode == 0, done.stderr
    assert (crowded / "one.tsv").read_bytes() == (crowded / "two.tsv").read_bytes()
    for output in ("run", "launched"):
        assert (crowded / output / "model").is_dir()


def test_what_is_imported_has_names_that_are_only_ours():
    assert [package.name for package in PACKAGES] == ["bertnli", "bertnli_export", "bertnli_launch"]
    for name in NAMES:
        assert not list((PACKAGES[0].parent / name).glob("*.py")), "a module there could be imported by its own name"


def test_these_names_are_left_to_others_in_this_environment(tmp_path: Path):
    """In the editable install, and for what a test imports: somebody's module of the name comes first."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("whose = 'theirs'\n")
    theirs = "import export, launch; assert export.whose == launch.whose == 'theirs'"
    # After ours, as PYTHONPATH has it when a test or an IDE puts our folders first.
    paths = os.pathsep.join([str(ROOT), SOURCES, str(tmp_path)])
    for path in (str(tmp_path), paths):
        subprocess.run([sys.executable, "-P", "-c", theirs], env=environment(PYTHONPATH=path), check=True)


def test_the_type_checker_and_pytest_know_no_other_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert project["mypy"]["packages"] == [package.name for package in PACKAGES]
    assert set(project["setuptools"]["package-dir"]) == {package.name for package in PACKAGES}
    roots = [str(package.parent.relative_to(ROOT)) for package in PACKAGES]
    assert project["pytest"]["ini_options"]["pythonpath"] == project["setuptools"]["packages"]["find"]["where"] == roots
