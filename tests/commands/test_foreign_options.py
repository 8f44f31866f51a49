"""Options of other programs: the command says which of its own serves; hyphens and underscores are the same."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import typer

from bertnli import cli
from bertnli.common.errors import InputError
from bertnli.run.foreign_options import OPTIONS
from bertnli.train import process


def command(*words: str) -> None:
    cli.app(list(words), prog_name="bertnli")


@pytest.mark.parametrize(
    ("words", "do"),
    [
        ("score b i o --batch_size 8", "score: no option --batch-size; leave it out: a batch has as many pairs as fit"),
        ("score b i o --batch-size 8", "score: no option --batch-size; leave it out: a batch has as many pairs as fit"),
        ("export m o --optimize O2", "no option --optimize; leave it out: attention, layer norms and GELU"),
        ("export -m m o", "no option -m; give it without a name, as the first argument"),
        ("export m o --fp16", "export: no option --fp16; use --precision fp16"),
        ("eval m d --max_seq_length 9", "eval: no option --max-seq-length; use --max-length TOKENS"),
        ("train r.yaml --num_train_epochs 3", "no option --num-train-epochs; use --set epochs=…"),
        ("train r.yaml --learning-rate 3", "train: no option --learning-rate; use --set learning_rate=…"),
        ("train r.yaml --save_steps 3", "no option --save-steps; use --set checkpoint.every_steps=…"),
        ("launch r.yaml --hostfile h --do_train", "launch: no option --do-train; leave it out .bertnli train trains."),
        ("train r.yaml --nproc_per_node 3", "no option --nproc-per-node; use --ranks"),
    ],
)
def test_another_programs_option_is_answered(words: str, do: str) -> None:
    with pytest.raises(InputError, match=do):
        command(*words.split())


@pytest.mark.parametrize(
    ("words", "do"),
    [
        ("r.yaml --num_train_epochs 3", "no option --num_train_epochs; use --set epochs=…"),
        ("r.yaml --learning_rate=3", "no option --learning_rate; use --set learning_rate=…"),
        ("--model_name_or_path bert --do_train --output_dir o", "no option --model_name_or_path; use --set model=…"),
        ("--do_train", "no option --do_train; leave it out .bertnli train trains."),
        ("r.yaml --nproc_per_node 3", "no option --nproc_per_node; it is one rank; bertnli train RUN.yaml --ranks N"),
        ("r.yaml --ranks 3", "no option --ranks; it is one rank; bertnli train RUN.yaml --ranks N starts several"),
    ],
)
def test_a_ranks_module_answers_them_too(words: str, do: str) -> None:
    with pytest.raises(InputError, match=f"python -m bertnli.train: {do}"):
        process.parse(words.split())


def test_a_ranks_module_answers_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main(["run.yaml", "--max_seq_length", "9"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bertnli train: python -m bertnli.train: no option --max_seq_length; use --set max_length=…")
    assert said.count("\n") == 1
    for words, expected in ((["r.yaml", "--colour"], "unrecognized arguments: --colour"), ([], "required: RUN.yaml")):
        with pytest.raises(SystemExit):
            process.main(words)
        assert expected in capsys.readouterr().err


def test_any_other_option_is_answered_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["score", "b", "i", "o", "--worker", "2"], ["fetch", "--batch-size", "2"]):
        with pytest.raises(SystemExit):
            command(*words)
        assert f"No such option: {words[-2]}" in capsys.readouterr().err


def test_options_are_taken_with_underscores(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["bertnli", "fetch", "--list", "--to", "x"])
    with pytest.raises(InputError, match=r"fetch: no name given"):
        command("fetch", "--from", "x")
    with pytest.raises(InputError, match=r"--skip-bad-rows.*found no --data"):
        command("verify", "nowhere", "--skip_bad_rows", "--no_header")


def options_of(name: str) -> set[str]:
    group: Any = typer.main.get_command(cli.app)
    return {option for parameter in group.commands[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_that_serve_exist(name: str) -> None:
    for option, do in OPTIONS[name].items():
        named = {word: re.search(r"bertnli (\w+)[^;]*" + word, do) for word in re.findall(r"--[a-z][a-z-]*", do)}
        for word, elsewhere in named.items():
            assert word in options_of(elsewhere[1] if elsewhere else name), (option, do)
