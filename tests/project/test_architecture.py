"""ARCHITECTURE.md: its tree has every folder, and the files that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import PACKAGES, ROOT
from tests.support import pages

PAGE = ROOT / "ARCHITECTURE.md"


def tree() -> list[Path]:
    """The folders of the tree, by their indentation."""
    found, above = [], {-2: ROOT}
    for line in pages.blocks(PAGE, "")[0].splitlines():
        indent, name = re.match(r"( *)(\w+)/ +\S", line).groups()
        above[len(indent)] = above[len(indent) - 2] / name
        found.append(above[len(indent)])
    return found


def test_every_folder_of_the_packages_is_in_the_tree():
    folders = set(tree())
    assert all(folder.is_dir() for folder in folders)
    assert {file.parent for package in PACKAGES for file in package.rglob("__init__.py")} <= folders


def test_files_named_there_exist():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE.read_text()))
    assert len(named) > 20
    there = [path.as_posix() for package in PACKAGES for path in package.rglob("*.py")]
    for name in named:
        assert (ROOT / name).is_file() or any(path.endswith(f"/{name}") for path in there), name


def test_it_is_short():
    assert len(PAGE.read_text().splitlines()) <= 100
