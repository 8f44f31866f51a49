"""What messages advise can be done: the options, keys, commands, extras and variables that they name exist.

The texts are read from the sources: all that a message may tell the user to `do`, and every text that names an option.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from packaging.requirements import Requirement

from bertnli import cli
from bertnli.common.errors import InputError
from bertnli.data.dialect import Dialect, option
from bertnli.run.config import RunConfig
from bertnli.run.run_file import _known_keys as known_keys
from bertnli.run.run_file import validate_run
from tests.conftest import PACKAGES, ROOT

GAP = "X"  # in place of what an f-string puts in
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
COMMANDS: dict[str, click.Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

KEYS = {*known_keys(RunConfig)}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PLACES_OF_OPTIONS_OF_OTHERS = (
    "launch/bertnli_launch/job.py",
    "launch/bertnli_launch/local.py",
    "bertnli/train/process.py",
)
"""They start DeepSpeed's launcher, and the process of a rank, whose options users do not give."""
WORDS_OF_OTHERS = {  # what looks like a key of a run file, and is a key or a name of another program
    *("add_cross_attention", "is_decoder", "model_type", "position_embedding_type", "problem_type"),  # in config.json
    *("model.save_pretrained", "max_shard_size"),  # transformers
    *(
        "torch_autocast",
        "lower_precision_safe_modules",
        "torch.nn",
        "deepspeed.utils.zero_to_fp32",
        "global_step",
        "gradient_accumulation_steps",
        "fp16.enabled",
    ),  # DeepSpeed
    *("tokenizer_class", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens"),  # in HF's files
    *("model_input_names", "input_ids", "attention_mask"),
    *("transformers_weights", "num_labels", "quantization_config", "peft_type"),
    "open_clip",  # a library
    *("inner_group_num", "relative_attention_num_buckets"),  # in config.json
    *("single_label_classification", "multi_label_classification"),  # values of problem_type
    "default_prompt_name",  # sentence-transformers
}
VARIABLES_OF_OTHERS = {"MASTER_ADDR", "MASTER_PORT"}


def rendered(node: ast.expr) -> list[str]:
    """The texts that an expression may give, as far as they stand in it."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
        inner = [text for part in node.values if isinstance(part, ast.FormattedValue) for text in rendered(part.value)]
        return ["".join(map(str, parts)), *inner]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in rendered(node.left) or [GAP] for b in rendered(node.right) or [GAP]]
    if isinstance(node, ast.IfExp):
        return [*rendered(node.body), *rendered(node.orelse)]
    return [text for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr) for text in rendered(child)]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(path: Path) -> set[int]:
    """The ids of a file's texts that stand alone: docstrings."""
    return {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}


@cache
def texts(path: Path) -> list[str]:
    """All texts of a file but its docstrings; those of an f-string as one."""
    skip, found = docstrings(path), []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.JoinedStr):
            skip |= {id(part) for part in node.values}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in skip:
            found += rendered(node)[:1]
    return found


@cache
def advice(path: Path) -> list[str]:
    """All that messages of a file may tell the user to do, by `do=` and by the names that are given to it."""
    given = [
        keyword.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "do"
    ]
    names = {node.id for value in given for node in ast.walk(value) if isinstance(node, ast.Name)}
    for node in ast.walk(tree(path)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
        told = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        if names & told and isinstance(node, ast.Assign | ast.For):
            given.append(node.value if isinstance(node, ast.Assign) else node.iter)
    return [text for value in given for text in rendered(value)]


def everything(kind: str) -> Iterator[tuple[str, str]]:
    for path in FILES:
        for text in texts(path) if kind == "texts" else advice(path):
            yield path.relative_to(ROOT).as_posix(), text


def test_the_reader_sees_what_is_there() -> None:
    all_advice = {text for _, text in everything("advice")}
    assert len(all_advice) > 180
    assert "start over and replace it with --restart" in all_advice, "by the name of a constant"
    assert any(text.startswith("say what is between") or "--skip-bad-rows" in text for text in all_advice)


def unknown_options(place: str, text: str) -> set[str]:
    # --long is zstd's; the others are those of `hf download`.
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    known = {
        option for command in COMMANDS.values() for one in command.params for option in one.opts + one.secondary_opts
    }
    others = {"--debug", "--version", "--help", "--long", "--revision", "--include", "--local-dir"}
    return named - known - others if place not in PLACES_OF_OPTIONS_OF_OTHERS else set()


def unknown_keys(place: str, text: str) -> set[str]:
    named = {*re.findall(r"\bin a run file: ([\w.]+)", text), *re.findall(r"\b(?:data|checkpoint)\.[a-z_]+\b", text)}
    return {key for key in named if key not in KEYS and GAP not in key and not key.endswith(".json")}


def unknown_words(place: str, text: str) -> set[str]:
    """Words such as `micro_batch_tokens` and `checkpoint.keep`, in advice only."""
    words = re.findall(r"(?<![\w./-])[a-z][a-z0-9]*(?:[_.][a-z0-9_]+)+(?![\w(-])", text)
    return {
        w
        for w in words
        if w not in KEYS | WORDS_OF_OTHERS and Path(w).suffix not in (".json", ".txt", ".html", ".safetensors")
    }


def wrong_values(place: str, text: str) -> set[str]:
    """Settings of the run file, `KEY: VALUE`, that it would refuse."""
    wrong = set()
    for key, value in re.findall(r"\b(?:set|try|,|or) ([a-z_.]+): (\{.*?\}|\w+)", text):
        if key not in KEYS or GAP in value:
            continue
        content: dict[str, Any] = {"model": "m", "output": "o", "max_steps": 1, "data": {"train": "t", "eval": "e"}}
        section, _, last = key.rpartition(".")
        (content.setdefault(section, {}) if section else content)[last] = yaml.safe_load(value)
        try:
            validate_run(content, "advice")
        except InputError as error:
            wrong |= {f"{key}: {value}"} if f"key {key}" in str(error) else set()
    return wrong


def wrong_commands(place: str, text: str) -> set[str]:
    """Commands of ours that the command line would refuse, and extras that `pip install` does not find."""
    wrong = set()
    for name, rest in re.findall(rf"\bbertnli ({'|'.join(COMMANDS)})\b([^;:,()\n]*)", text):
        words, command = rest.split(), COMMANDS[name]
        arguments: list[str] = []
        for word in words:  # until the sentence goes on
            if not (re.search(r"^-|[A-Z./=\d]", word) or (arguments[-1:] and arguments[-1].startswith("-"))):
                break
            arguments.append(word)
        if text.startswith("Example: "):
            arguments = words
        try:
            context = command.make_context(name, [], resilient_parsing=True)
            _, left, _ = command.make_parser(context).parse_args(arguments)
        except click.UsageError as error:
            wrong.add(f"bertnli {name} {' '.join(arguments)}: {error.message}")
        else:
            wrong |= {f"bertnli {name}: too many arguments, {left}"} if left else set()
    for requirement in re.findall(r"pip install '([^']+)'", text):
        asked = Requirement(requirement.replace(f"=={GAP}", "==1"))
        wrong |= {requirement} if asked.name == "bertnli" and asked.extras - EXTRAS.keys() - {GAP} else set()
    return wrong


def unknown_variables(place: str, text: str) -> set[str]:
    named = set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", text)) - VARIABLES_OF_OTHERS
    return named - {text for path in FILES for text in texts(path)} if named else named


CHECKS: dict[str, tuple[str, Callable[[str, str], set[str]]]] = {
    "options": ("texts", unknown_options),
    "keys": ("texts", unknown_keys),
    "words": ("advice", unknown_words),
    "values": ("advice", wrong_values),
    "commands": ("texts", wrong_commands),
    "variables": ("advice", unknown_variables),
}


@pytest.mark.parametrize("check", CHECKS)
def test_what_messages_advise_exists(check: str) -> None:
    kind, find = CHECKS[check]
    wrong = {(place, *sorted(found)) for place, text in set(everything(kind)) if (found := find(place, text))}
    assert not wrong


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("options", "give --colour red"),
        ("keys", "omit --labels (in a run file: label)"),
        ("keys", "set data.evaluate"),
        ("words", "lower micro_batch_size"),
        ("values", "set precision: fp64"),
        ("values", "set data.eval: {hold: 5}"),
        ("commands", "train it first: bertnli train RUN.yaml --rank 2"),
        ("commands", "make one: bertnli export MODEL OUT MORE"),
        ("commands", "pip install 'bertnli[gpus]'"),
        ("variables", "set BERTNLI_CASH"),
    ],
)
def test_the_checks_find_what_is_wrong(check: str, text: str) -> None:
    assert CHECKS[check][1]("a message", text)


def test_advice_about_tables_is_what_the_options_take() -> None:
    """It is put together from parts, so the checks above do not see it whole."""
    for name, value in (
        ("format", "jsonl"),
        ("delimiter", "tab"),
        ("delimiter", "';'"),
        ("quoting", "csv"),
        ("header", "false"),
    ):
        text = option(name, value)
        assert not any(find("a message", text) for _, find in CHECKS.values())
        command, key = text.removesuffix(")").split(" (in a run file: ")
        assert not wrong_commands("a message", f"bertnli eval MODEL DATA {command}")
        assert not wrong_values("a message", f"set {key}")
        Dialect(**({"header": False} if name == "header" else {name: shlex.split(value)[0]}))


def test_extras_that_are_missing_exist() -> None:
    """`need` tells the user to install an extra."""
    calls = [node for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    needed = {node.args[1].value for node in calls if getattr(node.func, "id", "") == "need" for _ in node.args[1:]}  # type: ignore[attr-defined]
    assert needed and needed <= EXTRAS.keys()
