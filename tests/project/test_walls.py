"""Who may import whom (ARCHITECTURE.md), read from the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PACKAGES as FOLDERS
from tests.conftest import environment

PACKAGES = ("bertnli", "bertnli_launch", "bertnli_export")
MODULES = {
    ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for package in FOLDERS
    for path in sorted(package.rglob("*.py"))
}
FACES = {"bertnli", "bertnli.cli", "bertnli.commands.model_argument"}
HEAVY = {"torch", "deepspeed", "safetensors", "onnx", "onnxscript", "transformers"}
LIGHT = (
    "data",
    "run",
    "watch",
    "common",
    "fetch",
    "evaluation",
    "report",
)  # folders of bertnli that reach none of them


def imports(path: Path) -> set[str]:
    """Modules named in any import statement of a file, lazy ones included, those for type checking left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def reached(module: str) -> set[str]:
    """Top-level names that importing `module` reaches, through our own modules."""
    seen, todo, outside = set(), [module], set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imports(MODULES[current]):
            if name.split(".")[0] not in PACKAGES:
                outside.add(name.split(".")[0])
            elif name in MODULES:
                todo.append(name)
    return outside


def light(module: str) -> bool:
    package, _, rest = module.partition(".")
    if package == "bertnli":
        return rest.startswith(LIGHT) or rest in ("commands.eval", "commands.demo")
    return not rest.startswith("graphs") and rest not in ("build", "")


@pytest.mark.parametrize("module", filter(light, MODULES))
def test_knows_neither_torch_nor_deepspeed(module):
    assert not reached(module) & HEAVY


def test_only_the_engine_knows_deepspeed_and_torch_distributed():
    for name, path in MODULES.items():
        used = {found for found in imports(path) if found.startswith(("deepspeed", "torch.distributed"))}
        assert not used or name == "bertnli.train.engine", f"{name} imports {used}"


def test_bertnli_imports_launch_and_export_only_through_its_faces():
    for name, path in MODULES.items():
        used = {found for found in imports(path) if found.split(".")[0] in ("bertnli_launch", "bertnli_export")}
        if name.split(".")[0] == "bertnli" and name not in FACES:
            assert not used, f"{name} imports {used}"
        if name.startswith("bertnli_export"):
            assert not any(found.startswith("bertnli_launch") for found in used), f"{name} imports {used}"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import bertnli", ("torch", "onnxruntime", "tokenizers", "numpy", "pydantic")),
        ("import bertnli.cli", ("torch", "onnxruntime", "tokenizers", "pyarrow", "huggingface_hub", "unearth", "ray")),
        ("from bertnli import Scorer", ("torch", "deepspeed", "onnx", "onnxruntime", "pyarrow", "pydantic")),
        ("import bertnli_export.score", ("torch", "deepspeed", "transformers", "onnx")),
        ("import bertnli_export.distributed", ("torch", "ray")),
        ("import bertnli_launch.local", ("torch", "deepspeed")),
    ],
)
def test_what_is_loaded_at_run_time(statement, unwanted):
    program = f"{statement}\nimport sys\nprint([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
