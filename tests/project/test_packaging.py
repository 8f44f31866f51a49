"""The wheel: everything the command needs is in it, and nothing of the source tree is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from bertnli_export.runtime import OLDEST

from tests.conftest import PACKAGES, ROOT, environment
from tests.support import tiny


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the source tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("bertnli", "launch", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, source)
    (built,) = out.glob("*.whl")
    return built


def run(*command: object, **options) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_floor_of_onnx_runtime_is_the_one_that_bundles_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    floors = {need.split(";")[0].rpartition(">=")[2].strip() for need in needed if need.startswith("onnxruntime")}
    assert floors == {OLDEST}


def test_holds_every_file_of_the_packages(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(package.parent))
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == tracked


def test_the_command_runs_from_the_wheel_alone(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel)
    alone = environment(PYTHONPATH=str(tmp_path / "site"))
    command = tmp_path / "site" / "bin" / "bertnli"
    assert "Start with: bertnli demo" in run(sys.executable, command, "--help", cwd=tmp_path, env=alone)
    assert "snli-100k" in run(sys.executable, command, "fetch", "--list", cwd=tmp_path, env=alone)
    where = "import bertnli as a, bertnli_export as b, bertnli_launch as c; print(a.__file__, b.__file__, c.__file__)"
    assert str(ROOT) + "/" not in run(sys.executable, "-c", where, cwd=tmp_path, env=alone)
    recipe = (
        "from bertnli.commands import demo; from bertnli.run.run_file import load_run\n"
        "print(load_run(demo.RECIPE).model)"
    )
    assert run(sys.executable, "-c", recipe, cwd=tmp_path, env=alone).strip() == "minilm"


@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_plain_install_in_an_empty_environment_scores_without_torch(wheel, tmp_path):
    """What a scoring host does: pip install of the wheel with its own dependencies, and nothing else."""
    from bertnli_export.build import export_bundle

    from bertnli.model import pretrained

    export_bundle(pretrained.load(tiny.hf_folder(tmp_path / "model")), tmp_path / "bundle")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(50)))

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    command, clean = tmp_path / "venv" / "bin" / "bertnli", environment(PYTHONPATH="")
    assert "Start with: bertnli demo" in run(command, "--help", cwd=tmp_path, env=clean)
    summary = run(command, "score", "bundle", "pairs.jsonl", "scores.tsv", "--json", cwd=tmp_path, env=clean)
    assert json.loads(summary.splitlines()[-1])["rows"] == 50
    assert len((tmp_path / "scores.tsv").read_text().splitlines()) == 51
    torch = subprocess.run([python, "-c", "import torch"], capture_output=True, env=clean, check=False)
    assert torch.returncode != 0
    # What is missing for training is said in one line.
    (tmp_path / "run.yaml").write_text("model: m\ndata: {train: t}\noutput: o\nepochs: 1\n")
    train = subprocess.run([command, "train", "run.yaml"], capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert train.returncode == 2 and "pip install 'bertnli[train]'" in train.stderr
