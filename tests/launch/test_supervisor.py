"""One attempt at a job: what of its output is shown, how it ended, and that all of it is gone, and only that."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from bertnli_launch.supervisor import Command, run_attempt

from bertnli.common.errors import RunError
from bertnli.watch.ending import Ending
from bertnli.watch.report import MARK, Report, from_line, to_line
from tests.conftest import SOURCES
from tests.support import fake_ssh

HOSTS = {"a": [0, 1], "b": [0]}
NAME, SECRET = "the-job", b"its secret"


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`a` and `b` are this machine; `calls` grows by a line with each ssh to `a`."""
    folder = fake_ssh.install(tmp_path)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("bertnli_launch.supervisor._GRACE_PERIOD", 0.5)
    fake_ssh.before(folder, "a", f"echo >> {tmp_path}/calls")
    return folder


def command(script: str, host: str | None = "a", files: dict[Path, str] | None = None) -> Command:
    return Command(["sh", "-c", script], {}, files or {}, host)


@contextlib.contextmanager
def running(environment: dict[str, str], *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these variables; it is killed at the end."""
    process = subprocess.Popen(argv, env={**os.environ, **environment}, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


def told(rank: int, code: int, by: int = 0, kind: str = "ended", shown: bool = False) -> str:
    """The shell command that prints a watcher's report."""
    ending = Ending(rank, "ab"[rank // 2], code, "ended so", "its error", kind)
    return f"echo {shlex.quote(to_line(Report(ending, by, shown), SECRET))} >&2"


def tried(*started: Command) -> tuple[Ending, bool]:
    return attempted(*started)[:2]


def attempted(*started: Command) -> tuple[Ending, bool, bool]:
    return run_attempt(started, HOSTS, {"PYTHONPATH": SOURCES}, NAME, SECRET, say=lambda line: None)


def test_the_first_host_speaks_and_others_by_name(capfd):
    quiet = "echo '[2026] [INFO] [launch.py:1:main] spawned'"
    finished = tried(command(f"echo one; {quiet}; {told(0, 0)}"), command("echo two; echo bad >&2", "b"))
    assert finished[0].code == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["b: two", "one"] and err == "b: bad\n"
    assert tried(command(f"echo 'a: one'; echo 'b: two'; {told(0, 0)}", None))[0].code == 0  # as pdsh does
    assert capfd.readouterr() == ("one\nb: two\n", "")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 1), ("exit 3", 3), ("kill -9 $$", 1)])
def test_without_a_watchers_word_a_job_has_not_finished(script, code):
    """pdsh and DeepSpeed's runner also exit with 0 after many failures."""
    ending, _ = tried(command(script, None))
    assert ending.failed and ending.code == code


def test_a_host_whose_connection_ends_is_gone():
    ending, _ = tried(command("sleep 100"), command("exit 255", "b"))
    assert ending.failed and str(ending) == "rank 2 on b is gone: its ssh connection ended with exit code 255"


@pytest.mark.parametrize(
    ("words", "rank"),
    [
        ([told(0, 1, by=2, kind="lost"), told(2, 137, by=0)], 2),  # rank 0 knows best
        ([told(0, 1, by=2, kind="lost"), told(1, 9, by=1)], 1),
        ([told(0, 1, by=2, kind="lost")], 0),
    ],
)
def test_whose_word_counts(words, rank, capfd):
    ending, _ = tried(command("; ".join(words) + "; exit 1"))
    assert ending.rank == rank and ending.text == "its error"
    assert MARK not in capfd.readouterr().err


GOOD = Report(Ending(0, "a", 0, "ended with exit code 0"), 0, True)
OLD = json.dumps({"ending": asdict(GOOD.ending), "reported_by": 0, "shown": True})  # as before reports were signed
FORGED = [
    MARK + "{}",
    MARK + OLD,
    MARK + json.dumps(asdict(GOOD)),
    MARK + "0" * 64 + " " + json.dumps(asdict(GOOD)),
    to_line(GOOD, b"another job's secret"),
    to_line(GOOD, SECRET) + " ",
    to_line(GOOD, SECRET).replace('"code": 0', '"code": 1'),
    "a: " + MARK,
    MARK * 3,
]


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_report_that_the_job_did_not_sign_is_output_like_any_other(stream, capfd):
    """A rank prints what it reads: such a line can stand in its data."""
    prints = "; ".join(f"echo {shlex.quote(line)} >&{stream}" for line in FORGED)
    ending, shown = tried(command(f"{prints}; exit 3"))
    assert (ending.code, ending.kind, shown) == (3, "lost", False)
    assert "".join(capfd.readouterr()).splitlines() == FORGED
    ending, _ = tried(command(f"{prints}; {told(0, 137)}; exit 1"))
    assert (ending.code, ending.text) == (137, "its error")


@pytest.mark.parametrize("before", ["50%", MARK, MARK + "0" * 64 + " "])
def test_a_report_is_heard_after_a_line_without_an_end(before):
    ending, _ = tried(command(f"printf %s {shlex.quote(before)} >&2; {told(0, 0)}"))
    assert ending.code == 0


def test_a_report_with_other_content_than_it_may_have_is_none():
    """Signed, as by another version of bertnli."""
    for wrong in (replace(GOOD, shown="yes"), replace(GOOD, ending=replace(GOOD.ending, code=300))):  # type: ignore[arg-type]
        assert from_line(to_line(wrong, SECRET), SECRET) is None
    assert from_line(to_line(GOOD, SECRET), SECRET) == GOOD


def test_ranks_that_were_refused_have_printed_why(capfd):
    """They end before they have the job's key."""
    for host in ("a", None):
        ending, shown = tried(command("echo 'bertnli train: no such file' >&2; exit 2", host))
        assert (ending.code, ending.failed, shown) == (2, False, True)
    assert capfd.readouterr().err.count("no such file") == 2


def test_letters_that_the_terminal_does_not_have_are_escaped(monkeypatch):
    """With one that cannot be written the output would stop, and then the job."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    many = "head -c 200000 /dev/zero | tr '\\0' x; echo"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        ending, _ = tried(command(f"echo 'caf\u00e9 \U0001f600'; {many}; {told(0, 0)}"))
    assert ending.code == 0
    assert terminal.buffer.getvalue() == b"caf\\xe9 \\U0001f600\n" + b"x" * 200_000 + b"\n"  # type: ignore[attr-defined]


def test_what_does_not_end_by_itself_is_killed_and_nothing_else(tmp_path):
    """Also a process that ignores signals and has left its parent. Processes with the same command line stay."""
    script = f"import pathlib, signal, time; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(tmp_path)!r}, 'up')"
    stubborn = [sys.executable, "-c", f"{script}.touch(); time.sleep(1000)", "bertnli.train"]
    with (
        running({"BERTNLI_JOB": NAME}, *stubborn) as ours,
        running({"BERTNLI_JOB": "x"}, *stubborn) as another,
        running({}, *stubborn) as unnamed,
    ):
        wait_for(tmp_path / "up")
        began = time.monotonic()
        ending, _ = tried(command(f"{told(0, 137)}; exec sleep 1000"))
        assert ending.code == 137 and time.monotonic() - began < 30
        assert ours.wait(timeout=5) == -signal.SIGKILL
        assert another.poll() is None and unnamed.poll() is None


def test_a_finished_job_is_left_alone(tmp_path, capfd):
    """A command may take its time after the last rank has finished, and nothing of the job is killed on any host."""
    on_a_host = f"BERTNLI_JOB={NAME} setsid sh -c 'sleep 1.5; touch {tmp_path}/closed' >/dev/null 2>&1 &"
    assert tried(command(f"{on_a_host} {told(0, 0)}; sleep 1; echo ended"))[0].code == 0
    assert capfd.readouterr().out == "ended\n"
    wait_for(tmp_path / "closed")


@pytest.mark.parametrize("fails", ["a start", "the last line"])
def test_nothing_is_left_where_something_of_ours_breaks(fails, tmp_path):
    """On any host, when an exception ends the attempt."""

    def say(line: str) -> None:
        raise OSError("the terminal is gone")

    started = [command(f"echo $$ > {tmp_path}/pid; exec sleep 1000")]
    if fails == "a start":
        started.append(Command(["/no/such/program"], {}, {}, "b"))
    else:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with running({"BERTNLI_JOB": NAME}, "sleep", "1000") as process:
        with pytest.raises(OSError):
            run_attempt(started, HOSTS, {"PYTHONPATH": SOURCES}, NAME, SECRET, say)
        assert process.wait(timeout=5) == -signal.SIGKILL
        assert not (tmp_path / "pid").exists() or not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_watcher_is_heard_where_nobody_reads_the_output(monkeypatch):
    """`bertnli launch … 2>&1 | head -5`"""
    reading, writing = os.pipe()
    os.close(reading)
    unread = os.fdopen(writing, "w", buffering=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", unread)
        ending, _ = tried(command(f"echo one >&2; echo two >&2; {told(0, 0)}"))
    with contextlib.suppress(OSError):
        unread.close()
    assert ending.code == 0


@pytest.mark.parametrize(("number", "passed"), [(signal.SIGINT, 2), (signal.SIGTERM, 15), (signal.SIGHUP, 15)])
def test_a_signal_goes_to_the_watcher_of_rank_0_alone(tmp_path, number, passed):
    watcher = (
        "import os, pathlib, signal, sys, time\n"
        "name = os.environ['RANK'] + os.environ.get('BERTNLI_HEARTBEAT', '')\n"
        f"file = pathlib.Path({str(tmp_path)!r}, name)\n"
        "def note(number, frame):\n"
        "    file.with_suffix('.got').write_text(str(number))\n"
        "    sys.exit()\n"
        "for number in (2, 15): signal.signal(number, note)\n"
        "file.with_suffix('.up').touch()\n"
        "time.sleep(1000)\n"
    )
    same = {"BERTNLI_JOB": NAME, "RANK": "0"}
    with (
        running(same, sys.executable, "-c", watcher),
        running({**same, "BERTNLI_HEARTBEAT": "x"}, sys.executable, "-c", watcher),
        running({**same, "RANK": "1"}, sys.executable, "-c", watcher),
    ):
        for name in ("0", "0x", "1"):
            wait_for(tmp_path / f"{name}.up")
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        waits = f"while [ ! -e {tmp_path}/0.got ]; do sleep 0.1; done; {told(0, 128 + passed, shown=True)}; exit 1"
        ending, shown = tried(command(waits))
        assert (ending.code, shown) == (128 + passed, True)
        assert [path.name for path in tmp_path.glob("*.got")] == ["0.got"]
        assert (tmp_path / "0.got").read_text() == str(passed)


def test_a_signal_before_there_is_a_watcher_waits_for_it(tmp_path):
    """As in the seconds in which ssh connects and Python starts. Here the first request finds no watcher."""
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    ending, *_ = tried(
        command(
            f"while [ $(wc -l < {tmp_path}/calls || echo 0) -lt 2 ]; do sleep 0.05; done; "
            f"BERTNLI_JOB={NAME} RANK=0 exec sleep 1000"
        )
    )
    assert ending.code == 143 and time.monotonic() - began < 30


def test_a_second_signal_ends_at_once():
    for seconds in (0.2, 0.5):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    ending, _ = tried(command("trap '' INT; sleep 1000"))
    assert ending.code == 130 and not ending.failed and time.monotonic() - began < 20


def test_a_signal_counts_while_a_job_is_failing_by_itself():
    """So that it is not started again."""
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    ending, _, stopped = attempted(command(f"{told(0, 137)}; exec sleep 1000"))
    assert (ending.code, stopped) == (137, True)
    assert attempted(command(told(0, 137)))[2] is False


def test_two_hang_ups_stop_a_job_too():
    for seconds in (0.2, 0.5):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGHUP)).start()
    ending, _, stopped = attempted(command("exec sleep 1000"))
    assert ending.code == 143 and not ending.failed and stopped


def test_a_hang_up_that_nohup_has_us_ignore_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
        ending, _, stopped = attempted(command(f"sleep 0.6; {told(0, 0)}"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (ending.code, stopped) == (0, False)


def test_files_are_for_this_user_alone(tmp_path, capfd):
    folder = tmp_path / "files"
    tried(command(f"cat {folder}/x", None, {folder / "x": "secret"}))
    assert "secret" in capfd.readouterr().out
    assert re.fullmatch("0o40700", oct(folder.stat().st_mode))


def test_a_file_of_a_command_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no folder")
    files = {tmp_path / "files" / "hosts": "a slots=1"}
    with pytest.raises(RunError, match="files/hosts: cannot be written: File exists; make room, or set TMPDIR"):
        run_attempt([command("true", files=files)], HOSTS, {}, NAME, SECRET, print)
