"""What the Tab key offers in a shell, after `bertnli --install-completion`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bertnli.fetch.catalog import CATALOG
from tests.conftest import environment


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the completion was installed, and a bin/ with the command, as pip makes it."""
    home = tmp_path_factory.mktemp("home")
    command = home / "bin" / "bertnli"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom bertnli.cli import main\nmain()\n")
    command.chmod(0o755)
    run(home, "bertnli --install-completion bash; exit $?")  # not alone: bash stays, and is found among the parents
    return home


def run(home: Path, script: str) -> str:
    env = environment(HOME=str(home)) | {"PATH": f"{home / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def offered(home: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    line = f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}; _bertnli_completion bertnli"
    return run(home, f'source ~/.bashrc; {line}; printf "%s\\n" "${{COMPREPLY[@]}}"').split()


def test_commands_and_options(home):
    assert offered(home, "bertnli", "tr") == ["train"]
    assert offered(home, "bertnli", "ex") == ["export"]
    assert offered(home, "bertnli", "export", "--prec") == ["--precision"]


def test_names_to_fetch(home):
    snli = [name for name in CATALOG if name.startswith("snli")]
    assert len(snli) > 2 and offered(home, "bertnli", "fetch", "snli") == snli
    assert offered(home, "bertnli", "fetch", "nothing-like-it") == []
