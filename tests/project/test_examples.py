"""The examples, each run unchanged (those that need no package of ours are in test_layouts.py)."""

from __future__ import annotations

import re
import runpy
import shlex
import sys

import typer.main
from bertnli_export.scorer import Scorer

from bertnli.cli import app
from bertnli.data.pairs import PairFile
from bertnli.run.run_file import load_run
from tests.conftest import ROOT
from tests.support import tiny

EXAMPLES = ROOT / "examples"


def test_every_example_is_listed_and_run_by_a_test():
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text())) == files
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for program in (name for name in files if name.endswith((".py", ".sh"))):
        assert f'"{program}"' in tests, program


def test_export_and_score(tmp_path, monkeypatch, capsys):
    model, bundle = tiny.hf_folder(tmp_path / "model"), tmp_path / "bundle"
    monkeypatch.setattr(sys, "argv", ["export_and_score.py", str(model), str(bundle)])
    made = runpy.run_path(str(EXAMPLES / "export_and_score.py"))
    first, *printed = capsys.readouterr().out.splitlines()
    assert first == f"{bundle}: fp32, 2 fused attention operators"
    scores = Scorer(bundle, "cpu").score(made["pairs"])
    assert printed == [
        "\t".join([*pair, score.label, f"{max(score.probabilities.values()):.3f}"])
        for pair, score in zip(made["pairs"], scores, strict=True)
    ]


def test_the_run_file_of_your_own_rows_fits_them():
    run = load_run(EXAMPLES / "train_on_your_own.yaml")
    assert run.data.train == "examples/train_on_your_own.tsv"
    rows = list(PairFile(ROOT / run.data.train, columns=run.data.columns).rows())
    assert len(rows) == 30 and {row.label for row in rows} == set(run.labels)


def test_the_commands_of_your_own_rows_parse():
    lines = (EXAMPLES / "train_on_your_own.sh").read_text().splitlines()
    commands = [shlex.split(line.replace('"$@"', "")) for line in lines if line.startswith("bertnli ")]
    assert [words[1] for words in commands] == ["train", "eval", "export", "score"]
    for _, name, *words in commands:
        typer.main.get_command(app).commands[name].make_context(name, words)
