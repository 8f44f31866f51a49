"""Printing cannot end a command: a full disk, a closed pipe or descriptor, an encoding that lacks a character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from bertnli.common import standard_streams
from tests.conftest import environment

PROGRAM = """
import sys
from bertnli.common import standard_streams
standard_streams.protect()
standard_streams.protect()
for _ in range(3):
    print("läuft 🚶 \\udcff" * 9000, flush=True)
    print("said", file=sys.stderr)
open("done", "w").close()
sys.exit(standard_streams.exit_code(int(sys.argv[1])))
"""


def run(tmp_path: Path, code: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(code)],
        **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options},
    )
    assert (tmp_path / "done").exists(), done.stderr
    assert b"Traceback" not in (done.stderr or b"") and b"Exception" not in (done.stderr or b"")
    return done


def closed_pipe() -> IO[bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


def test_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(tmp_path, stdout=full)
        assert done.returncode == 1
        assert (
            b"standard output: cannot be written (No space left on device); the printed text is lost, but the files"
            in done.stderr
        )
        assert run(tmp_path, code=3, stdout=full).stderr == b"said\n" * 3
        assert run(tmp_path, stdout=full, stderr=full).returncode == 1
        assert run(tmp_path, stderr=full).returncode == 0


def test_who_closes_the_pipe_has_what_he_wants(tmp_path: Path) -> None:
    with closed_pipe() as pipe:
        done = run(tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, b"said\n" * 3)
    with closed_pipe() as pipe:
        assert run(tmp_path, stdout=pipe, stderr=pipe).returncode == 0


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_closed_descriptors_are_no_files_of_ours(tmp_path: Path, closed: list[int]) -> None:
    done = run(tmp_path, preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0
    assert done.stderr == (b"" if 2 in closed else b"said\n" * 3)
    assert (tmp_path / "done").read_bytes() == b""


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"l\\xe4uft \\U0001f6b6 \\udcff"),
        ("latin-1", b"l\xe4uft \\U0001f6b6 \\udcff"),
        ("utf-8", "läuft 🚶 ".encode() + b"\\udcff"),
    ],
)
def test_what_cannot_be_encoded_is_escaped(tmp_path: Path, encoding: str, expected: bytes) -> None:
    done = run(tmp_path, env=environment(PYTHONIOENCODING=encoding))
    assert (done.returncode, done.stdout) == (0, (expected * 9000 + b"\n") * 3)


def test_a_slow_reader_of_a_pipe_that_does_not_block(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(["sh", "-c", "sleep 0.2; wc -c"], stdin=reading, stdout=subprocess.PIPE) as counting:
        os.close(reading)
        assert run(tmp_path, stdout=writing).returncode == 0
        os.close(writing)
        assert counting.stdout is not None
        assert int(counting.stdout.read()) == len("läuft 🚶 ".encode() + b"\\udcff") * 27000 + 3


def test_a_stream_that_the_caller_has_replaced_stays(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    standard_streams.protect()
    assert (sys.stdout, sys.stderr) == before
    assert standard_streams.failure() is None and standard_streams.exit_code(0) == 0
