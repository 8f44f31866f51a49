"""`bertnli` in the tests' own process: as the command line has it, without an interpreter and its imports each time."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bertnli import cli
from tests.conftest import Run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As the fixture `bertnli`, in this process: `command("eval", "model", "rows.tsv")`, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return run_command


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What a process with these arguments would end with: exit code, standard output, standard error."""
    handlers = {number: signal.getsignal(number) for number in cli.SIGNALS}
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "argv", ["bertnli", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
