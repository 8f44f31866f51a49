"""Signals that are passed on to a child: to whom, as what, and with which exit code at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertnli.common.signals import StopRequest
from tests.conftest import environment

NOTES = (  # NAME CODE: writes the number of the signal that it gets into the file NAME, and ends with CODE
    "import pathlib, signal, sys, time\n"
    "name, code = sys.argv[1:]\n"
    "def note(number, frame):\n"
    "    pathlib.Path(name).write_text(str(int(number)))\n"
    "    sys.exit(int(code))\n"
    "for number in (2, 15): signal.signal(number, note)\n"
    "pathlib.Path(name + '.ready').touch()\n"
    "time.sleep(100)\n"
)
STARTS = (  # the same, and its child besides, whose exit code is its own, as DeepSpeed's launcher has it
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {NOTES!r}, 'child', sys.argv[2]])\n"
    "import signal\n"
    "def note(number, frame):\n"
    "    open(sys.argv[1], 'w').write('got it')\n"
    "    child.kill()\n"
    "    sys.exit(1)\n"
    "for number in (2, 15): signal.signal(number, note)\n"
    "sys.exit(child.wait())\n"
)


def running(folder: Path, program: str, code: int, ready: str, options: str = "", before: str = "") -> subprocess.Popen:
    """A process that runs `program`, once that handles signals."""
    script = (
        "import signal, sys\n"
        f"{before}\n"
        "from bertnli.common.signals import run_child\n"
        f"sys.exit(run_child([sys.executable, '-c', {program!r}, 'noted', '{code}']{options})[0])"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=folder, env=environment())
    wait_for(folder / f"{ready}.ready")
    return process


def wait_for(path: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and (path.name.endswith(".ready") or path.read_text())):
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("sent", "passed", "code"), [(signal.SIGINT, 2, 130), (signal.SIGTERM, 15, 143), (signal.SIGHUP, 15, 143)]
)
def test_a_signal_is_passed_on_once_and_a_hang_up_as_sigterm(tmp_path, sent, passed, code):
    process = running(tmp_path, NOTES, code, "noted")
    process.send_signal(sent)
    assert process.wait(timeout=20) == code
    assert (tmp_path / "noted").read_text() == str(passed)


def test_a_child_that_fails_on_its_way_out_has_failed(tmp_path):
    process = running(tmp_path, NOTES, 1, "noted")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 1


def test_a_child_does_not_outlive_us(tmp_path):
    process = running(tmp_path, NOTES, 0, "noted")
    process.kill()
    wait_for(tmp_path / "noted")
    assert (tmp_path / "noted").read_text() == "15"
    process.wait()


def test_a_hang_up_that_nohup_has_us_ignore_is_not_passed_on(tmp_path):
    process = running(tmp_path, NOTES, 143, "noted", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and not (tmp_path / "noted").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_a_launcher_is_left_alone_and_its_ranks_are_told(tmp_path):
    """DeepSpeed's would end them after 30 s, be the checkpoint written or not."""
    process = running(tmp_path, STARTS, 143, "child", options=", to_children=True")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert (tmp_path / "child").read_text() == "15" and not (tmp_path / "noted").exists()


def test_before_it_has_started_any_the_launcher_itself_is_told(tmp_path):
    process = running(tmp_path, NOTES, 143, "noted", options=", to_children=True")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert (tmp_path / "noted").read_text() == "15"


@pytest.mark.parametrize(
    ("sent", "noted"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_request_to_stop_is_noted_and_a_hang_up_as_sigterm(sent, noted):
    before = signal.getsignal(sent)
    with StopRequest() as stop:
        assert stop.signal == 0
        signal.raise_signal(sent)
        assert stop.signal == noted
    assert signal.getsignal(sent) == before


def test_a_hang_up_that_nohup_has_us_ignore_is_not_noted():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal == 0
    finally:
        signal.signal(signal.SIGHUP, before)
