"""CONTRIBUTING.md: every command in it can be run, and what it says about files is true."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import tomllib

import hypothesis
import pytest

import bertnli
from benchmarks.__main__ import SETS
from bertnli.common import installed
from tests.conftest import ROOT
from tests.support import pages

PAGE = ROOT / "CONTRIBUTING.md"
COMMANDS = [
    shlex.split(command, comments=True)
    for block in pages.blocks(PAGE, "sh")
    for line in block.splitlines()
    for command in line.split(" && ")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_there(words):
    match words:
        case ["make", target, *variables]:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
            for variable in variables:
                assert f"$({variable.partition('=')[0]})" in makefile
        case [".venv/bin/python", "-m", "benchmarks", what, *options]:
            assert what in (*SETS, "table") and options in ([], ["--readme"])
        case [".venv/bin/python", "-m", "pytest", path, *options]:
            explored = ["-m", "hypothesis", "--hypothesis-profile=explore"]
            assert (ROOT / path).exists() and options in ([], ["-m", "bench"], explored)
            assert hypothesis.settings.get_profile("explore").max_examples > 100
        case [".venv/bin/python", "-m", module]:
            assert importlib.util.find_spec(module)
        case [program, *_] if program.startswith(".venv/bin/"):
            packages = [
                re.match(r"[\w-]+", wanted)[0] for wanted in PROJECT["project"]["optional-dependencies"]["test"]
            ]
            assert program.removeprefix(".venv/bin/") in packages
        case [".ci/run"]:
            assert os.access(ROOT / ".ci" / "run", os.X_OK)
        case _:
            assert words[:3] == ["git", "tag", "-a"]


def test_every_target_of_make_but_the_users_own_is_named():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert set(targets) - {"demo", "install", "clean"} == {words[1] for words in COMMANDS if words[0] == "make"}


def test_the_version_is_in_the_one_place_that_is_named():
    where = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert where == "bertnli.common.installed.__version__" and "`bertnli/common/installed.py`" in PAGE.read_text()
    assert installed.__version__ == bertnli.__version__
