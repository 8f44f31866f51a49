"""docs/errors.md says what the code does: the exit codes, and the example of a message."""

from __future__ import annotations

import re
import signal

from bertnli.common.errors import InputError, Interrupted, RunError
from tests.conftest import ROOT
from tests.support import pages

PAGE = ROOT / "docs" / "errors.md"


def test_the_exit_codes_are_those_of_the_code():
    codes = [0, RunError.exit_code, InputError.exit_code]
    codes += [Interrupted(number, "").exit_code for number in (signal.SIGINT, signal.SIGTERM)]
    assert re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE) == [str(code) for code in codes]


def test_the_example_is_what_the_command_prints(bertnli, tmp_path):
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\n")
    done = bertnli("score", "bundle", "pairs.tsv", "scores.tsv")
    assert done.returncode == 2
    assert pages.blocks(PAGE, "") == [done.stderr]
