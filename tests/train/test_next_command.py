"""The command that a finished run names works for the run's labels."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from bertnli.cli import app
from bertnli.data.labels import parse_label_names
from bertnli.run.run_file import validate_run
from bertnli.train.next_command import next_command

THREE = ("contradiction", "entailment", "neutral")
NAMES = {"train": {"x": "yes"}, "eval": {"1": "yes", "no, never": "no"}}
COLUMNS = {"train": {"premise": "note"}, "eval": {"hypothesis": "a claim", "label": "verdict"}}


@pytest.mark.parametrize(
    ("labels", "data", "words"),
    [
        (THREE, {}, ["eval", "my runs/model", "snli-test"]),
        (THREE, {"eval": "dev.tsv"}, ["eval", "my runs/model", "snli-test"]),
        (("entailment", "not_entailment"), {}, ["eval", "my runs/model", "hans"]),
        (("entailment", "non-entailment"), {"eval": "dev.tsv"}, ["eval", "my runs/model", "dev.tsv"]),
        (("yes", "no"), {"eval": {"holdout": 9}}, ["export", "my runs/model", "my runs/model-bundle"]),
        (("yes", "no"), {"eval": "dev.tsv"}, ["eval", "my runs/model", "dev.tsv"]),
        (
            ("yes", "no"),
            {"eval": "my dev.tsv", "skip_bad_rows": True, "columns": COLUMNS, "label_names": NAMES},
            [
                *("eval", "my runs/model", "my dev.tsv", "--hypothesis", "a claim", "--label", "verdict"),
                *("--label-names", '1=yes,"no, never=no"', "--skip-bad-rows"),
            ],
        ),
    ],
)
def test_it_works_for_the_runs_labels(labels: tuple[str, ...], data: dict[str, Any], words: list[str]) -> None:
    content = {"model": "minilm", "output": "x", "epochs": 1, "data": {"train": "a.tsv", **data}}
    name, *given = shlex.split(next_command("my runs/model", labels, validate_run(content, "a test")))
    assert name == "bertnli" and given == words
    command, *arguments = given
    parsed = typer.main.get_command(app).commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    if "label_names" in data:
        assert parse_label_names("--label-names", parsed.params["label_names"]) == NAMES["eval"]
