"""Options for text tables in other dialects do the same in every command, and in a run file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertnli.common.errors import InputError
from bertnli.data.dialect import Dialect
from bertnli.evaluation import data_sets
from bertnli.fetch import resolve
from bertnli.run.run_file import validate_run
from bertnli.train.inputs import load_data, load_starting_model
from tests.conftest import Run
from tests.support import tiny

ROWS = [
    (row["sentence1"], row["sentence2"], row["gold_label"]) for row in tiny.snli_rows(30) if row["gold_label"] != "-"
]
HEADER = ("premise", "hypothesis", "label")
# name: (content, options of a command, keys of a run file, what is said)
FILES: dict[str, tuple[str, list[str], dict[str, Any], str]] = {
    "semicolons.csv": ("\n".join(map(";".join, [HEADER, *ROWS])), [], {}, "';' is between its cells"),
    "quoted.tsv": (
        "\n".join(map("\t".join, [HEADER, *[(f'"{p} ""so""."', h, g) for p, h, g in ROWS]])),
        [],
        {},
        "row 1 has quotes",
    ),
    "maybe.tsv": (
        "\n".join(map("\t".join, [HEADER, *[(f'"{p}"', h, g) for p, h, g in ROWS]])),
        [],
        {},
        "warning: .*cells in quotes",
    ),
    "told.tsv": (
        "\n".join(map("\t".join, [HEADER, *[(f'"{p}"', h, g) for p, h, g in ROWS]])),
        ["--quoting", "csv"],
        {"quoting": "csv"},
        "",
    ),
    "bare.tsv": ("\n".join(map("\t".join, ROWS)), ["--no-header"], {"header": False}, "column 3 is the label"),
    "carets.csv": ("\n".join(map("^".join, [HEADER, *ROWS])), ["--delimiter", "^"], {"delimiter": "^"}, ""),
    "lines.txt": (
        "\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS),
        ["--format", "jsonl"],
        {"format": "jsonl"},
        "",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialects")
    tiny.hf_folder(folder / "start")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_score_eval_and_train_read_the_same_rows(folder: Path, command: Run, tmp_path: Path, name: str) -> None:
    content, options, keys, note = FILES[name]
    path = tmp_path / name
    path.write_text(content + "\n")
    said = []
    for arguments in (("score", tiny.bundle(), path, "out.jsonl"), ("eval", tiny.bundle(), path)):
        done = command(*arguments, "--device", "cpu", "--json", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["rows"] == len(ROWS)
        said.append(done.stderr)
    config = validate_run(
        {
            "model": str(folder / "start"),
            "data": {"train": str(path), **keys},
            "output": str(tmp_path / "run"),
            "max_steps": 1,
        },
        "test",
    )
    lines: list[str] = []
    assert len(load_data(config, load_starting_model(config), lines.append).corpus) == len(ROWS)
    for each in (*said, "\n".join(lines)):
        assert re.search(note, each) if note else "note:" not in each and "warning:" not in each


def test_a_corpus_belongs_to_a_dialect(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "maybe.tsv"
    path.write_text(FILES["maybe.tsv"][0])
    content = {"model": str(folder / "start"), "output": str(tmp_path / "run"), "max_steps": 1}
    tokens = []
    for quoting in ("none", "csv", "none"):
        config = validate_run({**content, "data": {"train": str(path), "quoting": quoting}}, "test")
        tokens.append(load_data(config, load_starting_model(config), lambda line: None).corpus.about["tokens"])
    assert tokens[0] == tokens[2] > tokens[1]


def test_the_two_files_may_be_written_in_two_ways(folder: Path, tmp_path: Path) -> None:
    for name in ("bare.tsv", "carets.csv"):
        (tmp_path / name).write_text(FILES[name][0])
    data = {
        "train": str(tmp_path / "bare.tsv"),
        "eval": str(tmp_path / "carets.csv"),
        "header": {"train": False},
        "delimiter": {"eval": "^"},
    }
    content = {"model": str(folder / "start"), "output": str(tmp_path / "run"), "max_steps": 1, "data": data}
    config = validate_run(content, "test")
    assert validate_run(yaml.safe_load(config.to_yaml()), "test") == config
    read = load_data(config, load_starting_model(config), lambda line: None)
    assert (len(read.corpus), read.to_evaluate) == (len(ROWS), len(ROWS))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"delimiter": "ab"}, r"key data\.delimiter: found 'ab'; .*one character, or tab"),
        ({"quoting": "all"}, r"key data\.quoting: found 'all'"),
        ({"format": "xlsx"}, r"key data\.format: found 'xlsx'; .*tsv, csv, jsonl"),
        ({"header": "maybe"}, r"key data\.header: found 'maybe'; expected true or false"),
        ({"delimiter": 5}, r"key data\.delimiter: found 5; expected text"),
        ({"quoting": {"test": "csv"}}, r"key data\.quoting: found .*; expected one value, or one under train:"),
        ({"quoting": {"train": "all"}}, r"key data\.quoting: found .*; .*expected csv or none"),
    ],
)
def test_wrong_keys_are_refused_with_the_run_file(keys: dict[str, Any], message: str) -> None:
    content = {"model": "minilm", "data": {"train": "a.tsv", **keys}, "output": "run", "max_steps": 1}
    with pytest.raises(InputError, match=message):
        validate_run(content, "test")


def test_named_data_sets_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch, command: Run, tmp_path: Path) -> None:
    path = tmp_path / "named.tsv"
    path.write_text('sentence1\tsentence2\tgold_label\n"A ""man""."\tb\tneutral\n')
    monkeypatch.setattr(data_sets, "resolve_data", lambda name: path)
    monkeypatch.setattr(resolve, "resolve_data", lambda name: path)
    opened = data_sets.open_set("snli-test", dialect=Dialect(delimiter=";", header=False))
    assert next(opened.file.rows()).premise == '"A ""man""."'
    assert not opened.file.notes
    done = command("score", tiny.bundle(), "snli-test", "out.tsv", "--device", "cpu")
    assert done.returncode == 0 and "note:" not in done.stderr
    assert (tmp_path / "out.tsv").read_text().splitlines()[1].startswith('"A ""man""."\tb\t')


def test_format_is_of_the_input_if_both_names_tell_one(command: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text('{"premise": "A man.", "hypothesis": "He."}\n')
    refused = command("score", tiny.bundle(), "in.txt", "out.tsv", "--device", "cpu")
    assert refused.returncode == 2 and "--format jsonl" in refused.stderr
    done = command("score", tiny.bundle(), "in.txt", "out.tsv", "--device", "cpu", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.tsv").read_text().startswith("premise\thypothesis\tprediction")
