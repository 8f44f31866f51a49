"""What the README shows can be pasted: its run files are valid, its commands parse, its links lead somewhere. What it
says was measured is in a record."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
import yaml
from bertnli_export.parity import LIMITS

from benchmarks import readme
from benchmarks.__main__ import RESULTS, main
from bertnli.cli import app
from bertnli.run.run_file import validate_run
from tests.benchmarks.test_gpu import _record
from tests.conftest import PACKAGES, ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
FOLDERS = (".", "docs", "examples", "recipes", "launch/recipes")
PAGES = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")]


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
        validate_run(content, "README.md")


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
    modules = {path.name for package in PACKAGES for path in package.rglob("[!_]*.py")}
    assert modules <= {name.rsplit("/", 1)[-1] for name in named}


# --- figures


def numbers(found: Any) -> Iterator[float]:
    """Every number of a JSON value."""
    if isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from numbers(part)
    elif isinstance(found, int | float):
        yield found


def test_the_table_is_what_its_command_makes_of_the_results(tmp_path):
    """Else: python -m benchmarks table --readme."""
    assert readme.between(TEXT) == readme.figures(RESULTS)
    results = shutil.copytree(RESULTS, tmp_path / "results")
    for name in ("accuracy", "scoring", "training-256"):
        kept = (results / f"{name}.json").read_text()
        result = json.loads(kept)
        one = result["mean"] if name == "accuracy" else result["peers"][0]["per_second"]
        one["bertnli" if name == "accuracy" else "median"] *= 1.1
        (results / f"{name}.json").write_text(json.dumps(result))
        assert readme.between(TEXT) != readme.figures(results)
        (results / f"{name}.json").write_text(kept)


def test_every_figure_of_the_table_is_in_a_result():
    """To the digits that are shown, whoever made the table."""
    measured = [number for path in RESULTS.glob("*.json") for number in numbers(json.loads(path.read_text()))]
    cells = [line.split("|", 2)[2] for line in readme.between(TEXT).splitlines() if re.match(r"\| (?!---)", line)]
    shown = [figure for line in cells for figure in re.findall(r"(?<![\w-])\d[\d,]*(?:\.\d+)?(?:e-\d+)?%?", line)]
    assert len(shown) > 100
    for figure in shown:
        mantissa, _, exponent = figure.strip("%").replace(",", "").partition("e")
        unit = 10 ** int(exponent or 0) * (0.01 if "%" in figure else 1)
        half = 0.5001 * 10.0 ** -len(mantissa.partition(".")[2]) * unit
        assert any(abs(number - float(mantissa) * unit) <= half for number in measured), figure


def test_no_figure_is_typed_by_hand():
    """Outside the table no speed, accuracy, memory or time stands, but for the limits of the parity gate."""
    prose = TEXT.replace(readme.between(TEXT), "")
    units = r"x\b|×|%|pairs/s|tokens/s|points?\b|[KMG]i?B\b|G?FLOP|seconds?\b|minutes?\b|ms\b"
    limits = {precision: (limit.label_flips, limit.accuracy_lost) for precision, limit in LIMITS.items()}
    assert re.findall(rf"\d[\d.,]*\s?(?:{units})", prose) == [f"{limits['int8'][0]:.1%}"]
    assert limits == {"fp32": (0, 0), "fp16": (0.001, 0.005), "int8": (0.015, 0.005)}  # as the README words them
    assert not re.search(r"\b0\.\d{3,}", prose)


def test_the_command_writes_the_table_and_nothing_else(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    monkeypatch.setattr(readme, "README", page)
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    assert main(["table", "--readme"]) == 0
    assert page.read_text() == f"before\n{readme.BEGIN}\n{readme.figures(RESULTS)}\n{readme.END}\nafter\n"
    page.write_text("no marks")
    assert main(["table", "--readme"]) == 2
    assert "the marks of its table; expected <!-- table: begin -->" in capsys.readouterr().err
    assert page.read_text() == "no marks"


def test_a_set_that_was_not_measured_has_no_table(tmp_path):
    assert readme.figures(tmp_path) == ""
    shutil.copy(RESULTS / "training-256.json", tmp_path)
    lines = readme.figures(tmp_path).splitlines()
    assert lines[0] == "| training, batch 256 | pairs/s | bertnli is faster by | peak memory |"
    assert any(line.startswith("| bertnli, ZeRO-0 |") for line in lines)
    assert not any("ZeRO-3" in line or "GFLOP" in line for line in lines)


def test_a_gpus_figures_have_a_table_too(tmp_path):
    (tmp_path / "gpu-scoring.json").write_text(json.dumps(_record({"bertnli": 41_000.0, "slow": 5_000.0})))
    found = readme.figures(tmp_path)
    assert "| about slow | 5,000 (5,000 to 5,000) | 8.20 (1.00 to 1.00) x | 0.10% | 0.001 | 1,000 MiB |" in found
    assert "NVIDIA H200" in found


def test_what_was_not_measured_is_said():
    assert ("nor is anything on a GPU yet" in TEXT) == (not list(RESULTS.glob("gpu-*.json")))
