"""What the README shows can be pasted: its run files are valid, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex

import pytest
import typer.main
import yaml

from bertnli import config
from bertnli.cli import app
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
PAGES = [path for name in ("*.md", "recipes/*.md", "launch/recipes/*.md") for path in ROOT.glob(name)]


def commands() -> list[list[str]]:
    lines = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    prose = re.sub(r"```.*?```|^\|.*?$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`(bertnli \w+ [^`|]*)`", prose)
    return [shlex.split(line, comments=True) for line in [*lines, *inline] if line.startswith("bertnli ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words):
    group = typer.main.get_command(app)
    command = group.commands[words[1]]
    command.make_context(words[1], words[2:])  # raises on an option or argument that does not exist


def test_run_files_are_valid():
    run_files = [yaml.safe_load(block) for kind, block in BLOCKS if kind == "yaml"]
    assert len(run_files) == 2
    for content in run_files:
        config.validate(content, "README.md")


def test_programs_without_bertnli_are_the_examples():
    assert (ROOT / "examples/onnxruntime_only.py").read_text() in [block for kind, block in BLOCKS if kind == "python"]


def test_every_command_is_in_the_table():
    rows = set(re.findall(r"^\| `bertnli (\w+)", TEXT, re.MULTILINE))
    assert rows == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_files_named_in_the_architecture_exist():
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text())
    there = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")}
    for name in named:
        assert any(path == name or path.endswith(f"/{name}") for path in there), name
    modules = {path.name for package in ("bertnli", "launch", "export") for path in (ROOT / package).glob("[!_]*.py")}
    assert modules <= {name.rsplit("/", 1)[-1] for name in named}
