"""What the README shows can be pasted: its run file is valid, its commands parse, its links lead somewhere.

The figures of README.md and benchmarks/README.md are in a record.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
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
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
FOLDERS = (".", "benchmarks", "docs", "examples", "recipes", "launch/recipes")
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
    assert len(run_files) == 1
    for content in run_files:
        validate_run(content, "README.md")


def test_every_command_is_in_the_table():
    rows = set(re.findall(r"^\| `bertnli (\w+)", TEXT, re.MULTILINE))
    assert rows == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


# --- figures


def numbers(found: Any) -> Iterator[float]:
    """Every number of a JSON value."""
    if isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from numbers(part)
    elif isinstance(found, int | float):
        yield found


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A folder with the two pages and the records in it."""
    for name in readme.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(RESULTS, tmp_path / "results")
    return tmp_path


@pytest.mark.parametrize("name", readme.PAGES)
def test_the_tables_are_what_their_command_makes_of_the_records(name, copies):
    """If this fails: python -m benchmarks table --readme."""
    shown, results = readme.between((ROOT / name).read_text()), copies / "results"
    assert shown == readme.PAGES[name](results)
    for changed, peer in (("accuracy", None), ("scoring", "cross-encoder"), ("training-256", "trainer-best")):
        kept = (results / f"{changed}.json").read_text()
        record = json.loads(kept)
        if peer is None:
            record["mean"]["bertnli"] *= 1.1
        else:
            next(one for one in record["peers"] if one["name"] == peer)["per_second"]["median"] *= 1.1
        (results / f"{changed}.json").write_text(json.dumps(record))
        assert shown != readme.PAGES[name](results), changed
        (results / f"{changed}.json").write_text(kept)


@pytest.mark.parametrize(("name", "least"), zip(readme.PAGES, (500, 25), strict=True))
def test_every_figure_is_in_a_record(name, least):
    """To the digits that are shown, however the page was made."""
    measured = [number for path in RESULTS.glob("*.json") for number in numbers(json.loads(path.read_text()))]
    found = 0
    for line in readme.between((ROOT / name).read_text()).splitlines():
        if line.startswith(("#", "| ---", "Measured on")) or line.endswith("`."):  # titles, machines, commands
            continue
        scale = 1e9 if "GFLOP/s" in line else 1.0
        text = line.split("|", 2)[2] if line.startswith("|") else line  # the first cell says of what
        for figure in re.findall(r"(?<![\w.-])-?\d[\d,]*(?:\.\d+)?(?:e-\d+)?%?", text):
            mantissa, _, exponent = figure.strip("%").replace(",", "").partition("e")
            unit = 10 ** int(exponent or 0) * (0.01 if "%" in figure else scale)
            half = 0.5001 * 10.0 ** -len(mantissa.partition(".")[2]) * unit
            assert any(abs(number - float(mantissa) * unit) <= half for number in measured), figure
            found += 1
    assert found > least


def test_no_figure_is_typed_by_hand():
    """Outside the table the README has no speed, accuracy, memory or time, except the limits of the parity gate."""
    prose = TEXT.replace(readme.between(TEXT), "")
    units = r"x\b|×|%|pairs/s|tokens/s|points?\b|[KMG]i?B\b|G?FLOP|seconds?\b|minutes?\b|ms\b"
    limits = {precision: (limit.label_flips, limit.accuracy_lost) for precision, limit in LIMITS.items()}
    assert re.findall(rf"\d[\d.,]*\s?(?:{units})", prose) == [f"{limits['int8'][0]:.1%}"]
    assert limits == {"fp32": (0, 0), "fp16": (0.001, 0.005), "int8": (0.015, 0.005)}  # as the README words them
    assert not re.search(r"\b0\.\d{3,}", prose)


def test_the_command_writes_the_tables_and_nothing_else(copies, monkeypatch, capsys):
    monkeypatch.setattr(readme, "ROOT", copies)
    for name in readme.PAGES:
        (copies / name).write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    assert main(["table", "--readme"]) == 0
    for name, figures in readme.PAGES.items():
        wanted = f"before\n{readme.BEGIN}\n{figures(RESULTS)}\n{readme.END}\nafter\n"
        assert (copies / name).read_text() == wanted
    (copies / "README.md").write_text("no marks")
    assert main(["table", "--readme"]) == 2
    assert "README.md: the marks of its table; expected <!-- table: begin -->" in capsys.readouterr().err
    assert (copies / "README.md").read_text() == "no marks"


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 220
    rows = [line for line in readme.between(TEXT).splitlines() if line.startswith("| ")][2:]
    assert 4 <= len(rows) <= readme.MOST_HEADLINES


def test_a_set_that_was_not_measured_has_no_row(tmp_path):
    shutil.copy(RESULTS / "training-256.json", tmp_path)
    lines = readme.headlines(tmp_path).splitlines()
    assert len(lines) == 5 and lines[2].startswith("| training, batch 256, pairs/s | ")
    assert "do not compare rows" not in lines[-1]


def test_a_gpus_figures_come_first(tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "gpu-scoring.json").write_text(json.dumps(_record({"bertnli": 41_000.0, "slow": 5_000.0})))
    lines = readme.headlines(tmp_path).splitlines()
    row = "| 41,000 (41,000 to 41,000) | about slow | 5,000 (5,000 to 5,000) | 8.20 (1.00 to 1.00) x |"
    assert lines[2] == f"| scoring a file, fp16, pairs/s {row}"
    assert len(lines) == 2 + readme.MOST_HEADLINES + 2 and lines[-1].startswith("Measured on NVIDIA H200; ")
    assert lines[-1].endswith("Each row is from one of these machines: do not compare rows.")


def test_what_was_not_measured_is_said():
    assert ("Nothing is measured on a GPU" in TEXT) == (not list(RESULTS.glob("gpu-*.json")))
