"""What comes from elsewhere is shown on one line, escaped and shortened, in every message and in the progress."""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common import heartbeat
from bertnli.common.errors import InputError, Interrupted, RunError
from bertnli.common.printable import MOST, printable, printable_lines
from bertnli.common.progress import progress, say
from bertnli.fetch.resolve import NotFetchedError
from bertnli.run.mistakes import refuse

FORGED = "w\nbertnli: all is well\x1b[2J\x1b]0;title\x07\r\x9b31m\u202egnp.x\u2028\x00"
SHOWN = r"w\nbertnli: all is well\x1b[2J\x1b]0;title\x07\r\x9b31m\u202egnp.x\u2028\x00"


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable(FORGED) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("caf\u00e9 \u00a0日本 👩\u200d🚀 \\n", 40) == "caf\u00e9 \u00a0日本 👩\u200d🚀 \\n"
    assert printable("a\udcff") == r"a\udcff"
    assert printable_lines("one\ntwo\x1b[0m\n three") == "one\ntwo\\x1b[0m\n three"


@given(st.text())
def test_whatever_it_is_it_stays_on_its_line_and_short(text) -> None:
    shown = printable(text, 20)
    assert len(shown) <= 20
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Zl", "Zp", "Cs"}
    assert printable(shown, 20) == shown
    assert shown == text or not text.isprintable() or len(text) > 20


@pytest.mark.parametrize("kind", [InputError, RunError])
@pytest.mark.parametrize("part", ["what", "found", "expected", "do"])
def test_every_part_of_an_error_goes_through_it(kind, part) -> None:
    parts = {"what": "model.onnx", part: FORGED}
    assert SHOWN in str(kind(**parts))
    long = str(kind(**{"do": "do this", **parts, part: "\U0001f600" * 10_000}))
    assert len(long) < MOST + 100 and "…" in long
    assert part == "do" or long.endswith("do this")


def test_lines_of_ours_stay_lines_and_nobody_else_makes_one() -> None:
    error = RunError("2 problems", lines=[f"  one: {FORGED}", "  two"])
    assert str(error).splitlines() == ["2 problems", f"  one: {SHOWN}", "  two"]
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # as a worker process sends it
        assert type(again) is RunError and str(again) == str(error)
    fetched = pickle.loads(pickle.dumps(NotFetchedError("x: all sources failed:", "r", ["  a", "  b"])))
    assert str(fetched) == "x: all sources failed:\n  a\n  b" and fetched.reason == "r"
    with pytest.raises(InputError) as raised:
        refuse([InputError("run.yaml: key a", found=FORGED), InputError("run.yaml: key b")], "run.yaml")
    assert str(raised.value).splitlines() == ["run.yaml: 2 mistakes", f"  key a; found {SHOWN}", "  key b"]
    assert str(Interrupted(2, FORGED)) == SHOWN


def test_progress_in_a_log_and_on_a_terminal(capsys, monkeypatch) -> None:
    say(FORGED)
    with progress("pairs", 1) as update:
        update(1, FORGED)
    assert capsys.readouterr().err == f"{SHOWN}\npairs 1/1 {SHOWN}\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "xterm")
    with progress("[red]pairs[/]", 2) as update:
        update(1, f"[/]{FORGED}")
    shown = sys.stderr.getvalue()
    assert "[red]pairs[/]" in shown and "title\\x07" in shown
    assert "\x1b]0;title" not in shown and "\nbertnli: all" not in shown


def test_heartbeats_have_one_line(monkeypatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(heartbeat, "_pipe", writer)
    heartbeat.beat(f"reading {FORGED}")
    assert os.read(reader, 1000).decode() == f"working reading {SHOWN}\n"
    os.close(reader), os.close(writer)
