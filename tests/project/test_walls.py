"""Who may import whom (ARCHITECTURE.md), a rule by folder, read from the source of every file."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests.conftest import PACKAGES, environment
from tests.support import tiny

MODULES = {
    ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted(package.rglob("*.py"))
}
OURS = {package.name for package in PACKAGES}
HEAVY = {"torch", "deepspeed", "safetensors", "onnx", "onnxscript", "transformers"}

# Folders, and modules outside them, that may import HEAVY, and those in them that may not.
WITH_TORCH = ("bertnli.model", "bertnli.train", "bertnli_export.graphs", "bertnli_export.build", "bertnli.cli")
WITHOUT_TORCH = ("bertnli.train.__main__", "bertnli.train.process")
# What reaches none of HEAVY, lazily or not.
LIGHT = (
    *("bertnli.common", "bertnli.data", "bertnli.evaluation", "bertnli.fetch", "bertnli.report", "bertnli.run"),
    *("bertnli.watch", "bertnli.commands.eval", "bertnli.commands.demo", "bertnli_launch", "bertnli_export"),
)
NOT_LIGHT = ("bertnli_export.graphs", "bertnli_export.build")

# The two arrows that go up: the command with what belongs to it, and `from bertnli import Scorer, pretrained`.
UPWARD = ("bertnli.cli", "bertnli.commands", "bertnli")


@cache
def imports(module: str) -> frozenset[str]:
    """Modules named in any import statement of a file, lazy ones included, those for type checking left out."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return frozenset(found)


def inside(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places if place != "bertnli") or (
        "bertnli" in places and module == "bertnli"
    )


def top_level(names: frozenset[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def reached(module: str) -> set[str]:
    """Top-level names of other packages that importing `module` reaches through our own modules."""
    seen, todo, outside = set(), [module], set()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            outside |= top_level(imports(current)) - OURS
            todo += [name for name in imports(current) if name in MODULES and name != "bertnli"]
    return outside


def test_the_reader_sees_what_is_there():
    assert len(MODULES) > 100
    assert "torch" in imports("bertnli.train.loop") and "torch" in reached("bertnli.train.process")
    assert reached("bertnli_export.score") >= {"numpy", "onnxruntime"}


def test_torch_stays_where_models_are():
    for module in MODULES:
        if not inside(module, WITH_TORCH) or inside(module, WITHOUT_TORCH):
            assert not (found := top_level(imports(module)) & HEAVY), f"{module} imports {found}"


def test_what_scores_fetches_watches_and_launches_reaches_no_torch():
    for module in MODULES:
        if inside(module, LIGHT) and not inside(module, NOT_LIGHT):
            assert not (found := reached(module) & HEAVY), f"{module} reaches {found}"


def test_only_the_engine_knows_deepspeed_and_torch_distributed():
    for module in MODULES:
        used = {found for found in imports(module) if found.startswith(("deepspeed", "torch.distributed"))}
        assert not used or module == "bertnli.train.engine", f"{module} imports {used}"


def test_arrows_go_up_in_two_places_alone():
    for module in MODULES:
        used = top_level(imports(module)) & {"bertnli_launch", "bertnli_export"} - {module.split(".")[0]}
        allowed = (
            OURS if inside(module, UPWARD) else {"bertnli_export"} if inside(module, ("bertnli_launch",)) else set()
        )
        assert used <= allowed, f"{module} imports {used}"


def test_there_is_no_circle_and_there_are_eight_floors():
    """Of modules, none anywhere; of folders, none in bertnli, whose floors are counted: a folder stands above all that
    it imports."""
    files = {module: {name for name in imports(module) if name in MODULES and name != "bertnli"} for module in MODULES}
    TopologicalSorter({module: names - {module} for module, names in files.items() if module != "bertnli"}).prepare()

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    folders: dict[str, set[str]] = {}
    for module, names in files.items():
        if module.startswith("bertnli.") and module != "bertnli.__main__":  # another name of bertnli.cli
            below = {folder(name) for name in names if name.startswith("bertnli.")} - {folder(module)}
            folders.setdefault(folder(module), set()).update(below)
    floors: dict[str, int] = {}
    for name in TopologicalSorter(folders).static_order():  # raises CycleError
        floors[name] = 1 + max((floors[below] for below in folders.get(name, ())), default=0)
    assert max(floors.values()) <= 8 and floors["bertnli.common"] == 1, floors


def test_a_folders_own_file_is_empty():
    """Else importing one module of a folder loads others: the command would start later, scoring would load torch."""
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module.count("."):
            assert path.read_text() == "", module


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import bertnli", ("torch", "onnxruntime", "tokenizers", "numpy", "pydantic", "email")),
        ("import bertnli.cli", ("torch", "onnxruntime", "tokenizers", "pyarrow", "huggingface_hub", "unearth", "ray")),
        ("import bertnli.fetch.resolve", ("ssl", "http.client", "httpx2", "unearth", "huggingface_hub", "numpy")),
        ("from bertnli import Scorer", ("torch", "deepspeed", "onnx", "onnxruntime", "pyarrow", "pydantic")),
        ("import bertnli_export.score", ("torch", "deepspeed", "transformers", "onnx")),
        ("import bertnli_export.distributed", ("torch", "ray")),
        ("import bertnli_launch.local", ("torch", "deepspeed")),
        ("import bertnli_launch.doctor", ("torch", "deepspeed", "numpy", "pydantic", "yaml", "tokenizers")),
    ],
)
def test_what_is_loaded_at_run_time(statement, unwanted):
    program = f"{statement}\nimport sys\nprint([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


COMMANDS = """
import json, sys
from bertnli import cli

for arguments, unwanted in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, end
    print("loaded:", *(name for name in unwanted if name in sys.modules), file=sys.stderr)
"""


def test_what_a_command_loads(tmp_path):
    """Each command starts as soon as what it needs is there. The later ones load what the earlier ones did, too."""
    bundle, rows = str(tiny.bundle()), tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(8)))
    heavy = ["torch", "onnx", "pyarrow", "pandas", "transformers", "huggingface_hub", "ssl", "http.client", "sympy"]
    commands = [
        (["--help"], [*heavy, "numpy", "onnxruntime", "tokenizers", "yaml"]),
        (["score", bundle, str(rows), str(tmp_path / "scores.jsonl")], [*heavy, "yaml", "jinja2", "psutil"]),
        (["eval", bundle, str(rows)], [*heavy, "jinja2"]),
    ]
    program = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("loaded:")] == ["loaded:"] * len(commands)
