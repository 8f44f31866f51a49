"""A job's environment and arguments: read strictly, and unchanged after DeepSpeed, pdsh and a shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from bertnli_launch import envfile, shell
from hypothesis import given, settings
from hypothesis import strategies as st

from bertnli.common.errors import InputError

NASTY = [
    *("", " ", "a b", " a ", "it's", 'say "x"', "$HOME", "${HOME}", "$(touch owned)", "`touch owned`", "a;touch owned"),
    *(
        "a\\",
        "\\$HOME",
        'a \\"b',
        "50%",
        "%n%h",
        "%%u",
        "a&b|c>d<e",
        "*?[a]",
        "!x",
        "#no comment",
        "~",
        "é ü 漢",
        "\ta\t",
    ),
]
ONE_LINE = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs", "Cc", "Zl", "Zp"]))


def written(folder: Path, text: str) -> Path:
    path = folder / "job.env"
    path.write_text(text)
    return path


def test_the_parser_comes_with_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dotenv", None)
    with pytest.raises(InputError, match=r"needs dotenv, which is not installed; pip install 'bertnli\[train\]'"):
        envfile.read(written(tmp_path, "A=1\n"))


def test_comments_blank_lines_and_quotes(tmp_path):
    path = written(
        tmp_path,
        "# ours\n\nHF_HOME=/data/hf # shared\nexport A='it is # quoted'\nB=\"two words \"\n  C=x#y\nD=$HOME\n"
        "E=\nF=a=b\n",
    )
    assert envfile.read(path) == {
        "HF_HOME": "/data/hf",
        "A": "it is # quoted",
        "B": "two words ",
        "C": "x#y",
        "D": "$HOME",
        "E": "",
        "F": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\n\n\nB\n", "line 4: 'B'; expected NAME=VALUE"),
        ("A=1\n=2\n", "line 2: '=2'"),
        ("# x\n\nA='never closed\n", 'line 3: "A=\'never closed"'),
        ("A;touch owned=1\n", "line 1"),
        ("A.B=1\n", "line 1: 'A.B=1'"),
        ("'A B'=1\n", "line 1"),
    ],
)
def test_anything_else_is_an_error_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        envfile.read(written(tmp_path, text))


def test_a_missing_env_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        envfile.read(tmp_path / "nothing")


def test_what_goes_along():
    goes = {
        "PATH",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "OMP_NUM_THREADS",
        "NCCL_DEBUG",
        "GLOO_SOCKET_IFNAME",
    }
    goes |= {"HF_HOME", "HF_HUB_OFFLINE", "BERTNLI_CACHE", "TORCH_LOGS", "CUDA_HOME"}
    stays = {"HOME", "HF_TOKEN", "SSH_AUTH_SOCK", "CUDA_VISIBLE_DEVICES", "HOSTNAME", "RANK", "AWS_SECRET_ACCESS_KEY"}
    assert envfile.passed_on(dict.fromkeys(goes | stays, "x")).keys() == goes


# Through DeepSpeed's own pdsh command, pdsh's replacements and a real shell


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """`through(arguments, variables)`: both as a rank on another host finds them."""
    pytest.importorskip("deepspeed")
    from deepspeed.launcher.multinode_runner import PDSHRunner

    folder = tmp_path_factory.mktemp("shell")
    seen = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], sys.stdout)"
    (folder / "seen.py").write_text(seen)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/seen.py "$@"\n')
    (folder / "python").chmod(0o755)
    (folder / "cwd").mkdir()

    def send(arguments: list[str], variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        given = [shell.deepspeed_argument(argument) for argument in arguments]
        options = {"ssh_port": None, "launcher_args": "", "venv_script": None, "no_python": False, "module": True}
        options |= {"no_local_rank": False, "save_pid": False, "enable_each_rank_log": "None"}
        runner = PDSHRunner(
            Namespace(user_args=given, user_script="m", master_addr="a", master_port=1, **options), "world"
        )
        (folder / "ds.env").write_text(shell.deepspeed_env_file(variables), encoding="utf-8")
        with (folder / "ds.env").open(encoding="utf-8") as file:  # as deepspeed.launcher.runner.main does
            for line in file.readlines():
                name, value = line.split("=", maxsplit=1)
                runner.add_export(name, value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(folder / "python"))
            patch.chdir(folder / "cwd")
            command, _, _ = runner.get_cmd({}, {"a": [0]})
        sent = " ".join(command[command.index("-w") + 2 :])
        sent = re.sub("%([%nhu])", lambda found: {"%": "%", "n": "0"}.get(found[1], found[1]), sent)  # pdsh
        done = subprocess.run(["sh", "-c", sent], env={}, capture_output=True, text=True, check=True)
        found, environment = json.loads(done.stdout)
        return found[found.index("m") + 1 :], environment

    yield send
    assert not list(folder.rglob("owned")), "a shell ran what was given as a value"


def test_nasty_words_arrive_as_they_were(through):
    names = [f"V{number}" for number in range(len(NASTY))]
    arguments, environment = through(NASTY, dict(zip(names, NASTY, strict=True)))
    assert arguments == NASTY
    assert [environment[name] for name in names] == NASTY


@settings(max_examples=20)
@given(words=st.lists(ONE_LINE, min_size=1, max_size=8), values=st.lists(ONE_LINE, max_size=8))
def test_any_words_arrive_as_they_were(through, words, values):
    variables = {f"V{number}": value for number, value in enumerate(values)}
    arguments, environment = through([*words, "--set"], variables)
    assert arguments == [*words, "--set"] and variables.items() <= environment.items()


def test_a_line_break_cannot_go_along():
    with pytest.raises(InputError, match="variable A; found a line break"):
        shell.deepspeed_env_file({"A": "1\n2"})


@pytest.mark.parametrize("word", NASTY)
def test_words_over_ssh(tmp_path, word):
    program = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1] + chr(10) + os.environ['A']))"
    command = shell.over_ssh("host", [sys.executable, "-c", program, word], {"A": word})
    assert command[-2] == "host"
    done = subprocess.run(["sh", "-c", command[-1]], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode() == f"{word}\n{word}"
    assert not list(tmp_path.iterdir())


def test_what_deepspeed_would_not_quote_must_be_plain():
    shell.check_plain("the interpreter", "/opt/venv-3.11/bin/python")
    for path in ("/my venv/bin/python", "/a;b", "/a$b", "/50%/python"):
        with pytest.raises(InputError, match="letters, digits"):
            shell.check_plain("the interpreter", path)
