"""`make` in a fresh folder: what it installs, and when it installs again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/bin/sh
case "$2" in
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
pip) for word in "$@"; do printf '<%s> ' "$word" >> given; done; echo >> given ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Calls make with a Python that records the arguments of pip; returns them, one line for each call of pip."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    given = tmp_path / "given"

    def call(target: str, **variables: str) -> list[str]:
        given.write_text("")
        ours = {name: value for name, value in os.environ.items() if name not in ("TORCH_SPEC", "MAKEFLAGS")}
        command = ["make", target, f"PYTHON={tmp_path / 'python'}", "VENV=venv"]
        subprocess.run(command, cwd=tmp_path, env={**ours, **variables}, check=True, stdout=subprocess.DEVNULL)
        return given.read_text().splitlines()

    return call


def pinned(tmp_path: Path) -> bool:
    return "\ntorch==" in (tmp_path / "venv" / "constraints.txt").read_text()


def test_another_torch_is_installed_when_it_is_asked_for_and_stays(make, tmp_path):
    (first,) = make("install")
    assert "<torch" not in first and pinned(tmp_path)
    assert make("install") == []
    (other,) = make("install", TORCH_SPEC="torch>=2.10,<2.12")  # no redirections
    assert "<torch>=2.10,<2.12>" in other and not pinned(tmp_path)
    assert make("install", TORCH_SPEC="torch>=2.10,<2.12") == make("install") == []
    (again,) = make("install", TORCH_SPEC="torch==2.11.0")
    assert "<torch==2.11.0>" in again and not pinned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("Makefile", "pyproject.toml", "constraints.txt", "python", "given", "venv")
    }


def test_nothing_is_installed_again_if_only_the_note_is_missing(make, tmp_path):
    make("install")
    (tmp_path / "venv" / "torch-spec").unlink()
    assert make("install") == []
