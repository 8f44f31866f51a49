"""No Python that we start imports modules from the working folder, unless the user names that folder in PYTHONPATH."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertnli.common.safe_path import safe_path
from bertnli.watch.child import ChildProcess
from tests.conftest import PACKAGES, SOURCES

NAMES = ("numpy", "copy", "torch")
PROGRAM = "import copy, numpy, bertnli, bertnli_export, bertnli_launch; print('fine')"


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules of well-known names."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working folder was run')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "paths"),
    [
        (None, []),
        ("", []),
        (":", []),
        (":/a", ["/a"]),  # PYTHONPATH=$PYTHONPATH:/a
        ("/a:", ["/a"]),
        ("/a::/b", ["/a", "/b"]),
        (".", ["@"]),
        ("lib:/a", ["@/lib", "/a"]),
    ],
)
def test_the_working_folder_is_in_no_path_that_does_not_name_it(tmp_path, monkeypatch, named, paths):
    monkeypatch.chdir(tmp_path)
    made = safe_path({"A": "b", **({} if named is None else {"PYTHONPATH": named})})
    assert made.pop("PYTHONPATH").split(os.pathsep) == [
        *SOURCES.split(os.pathsep),
        *(path.replace("@", str(tmp_path)) for path in paths),
    ]
    assert made == {"A": "b", "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("named", ["", ":", f":{SOURCES}", f"{SOURCES}:"])
def test_a_child_imports_installed_modules(crowded, named):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=safe_path({**os.environ, "PYTHONPATH": named}),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_training_process_imports_installed_modules(crowded, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":{SOURCES}")
    ending = asyncio.run(ChildProcess(1, "here").run([sys.executable, "-c", PROGRAM], crowded / "log"))
    assert ending.code == 0, ending.text


def starts() -> Iterator[tuple[Path, ast.expr]]:
    """Every command in our packages that begins with this Python."""
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.List | ast.Tuple) and "sys.executable" in map(ast.unparse, node.elts[:1]):
                    yield file, node


def test_every_python_that_we_start_has_a_safe_path():
    """Its command has -P, or its file says where its environment's PYTHONSAFEPATH comes from."""
    found = list(starts())
    assert len(found) >= 8
    for file, command in found:
        source = file.read_text()
        assert (
            "'-P'" in ast.unparse(command)
            or "safe_path(" in source
            or "PYTHONSAFEPATH" in source
            or (
                file.name == "process.py" and "watch(rank, trainer" in source  # ChildProcess starts it
            )
        ), f"{file}: {ast.unparse(command)}"
