"""Scoring in a process of its own, which a test stops or kills at the moment that it wants."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.support import tiny
from tests.support.scored_files import CHUNK, score, write

CHILD = """
import json, os, signal, sys, time
if {no_torch}:
    sys.modules.update(dict.fromkeys(("torch", "onnx", "onnxscript", "safetensors", "deepspeed")))  # importing fails
from bertnli.common.errors import Interrupted
from bertnli_export import output_file, score

score.CHUNK["cpu"] = {chunk}

def interrupt(number, frame):
    raise Interrupted(number, "interrupted")

def say(word):
    print(word, flush=True)
    sys.stdin.readline()  # if the test holds this process, it continues when the test sends a line

class HalfWrites:  # takes the place of the module os where the output is written
    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        written = os.write(descriptor, data[: max(1000, len(data) // 2)])
        if written < len(data):
            say("half")
        return written

if {half_writes}:
    output_file.os = HalfWrites()
signal.signal(signal.SIGTERM, interrupt)
try:
    bundle, file, output = sys.argv[1:]
    summary = score.score_file(
        bundle, file, output, device="cpu", workers={workers}, checkpoint_seconds=0,
        progress=lambda *_: None if {half_writes} else say("x"),
    )
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
print(json.dumps(summary))
"""


def start(
    file: Path, output: Path, no_torch: bool = False, workers: int = 1, half_writes: bool = False, held: bool = False
) -> subprocess.Popen[str]:
    """`held`: after each line that it prints, it waits for a line from the test."""
    code = CHILD.replace("{no_torch}", str(no_torch)).replace("{chunk}", str(CHUNK)).replace("{workers}", str(workers))
    code = code.replace("{half_writes}", str(half_writes))
    arguments = [sys.executable, "-c", code, tiny.bundle(), file, output]
    return subprocess.Popen(
        list(map(str, arguments)),
        stdin=subprocess.PIPE if held else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def killed_at_random(folder: Path, format: str, kills: int, seed: int, workers: int = 1) -> None:
    """Start scoring again and again, kill it at random moments, and compare the bytes with those of an undisturbed run.

    Every second kill comes between two halves of a write. Each lets at most six chunks pass, so no run finishes first.
    """
    rows = tiny.snli_rows((10 + 7 * kills) * CHUNK + 10, seed=seed)
    rows[10]["sentence1"] = ""
    file = write(folder / f"in.{format}", rows)
    output = folder / f"out.{format}"
    score(file, folder / f"whole.{format}")
    draw = random.Random(seed)
    for kill in range(kills):
        in_a_write = (kill + seed) % 2 == 0
        child = start(file, output, workers=workers, half_writes=in_a_write, held=True)
        assert child.stdout is not None and child.stdin is not None
        for more in reversed(range(draw.randint(1, 6))):  # chunks, or first halves of writes, to let pass
            if not child.stdout.readline():
                pytest.fail(f"it ended first: {child.communicate()[1]}")
            if more or not in_a_write:
                child.stdin.write("\n")
                child.stdin.flush()
        if not in_a_write:
            time.sleep(draw.uniform(0, 0.03))  # anywhere in the next chunk
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=100)
        assert not output.exists()
    assert score(file, output, workers=workers)["rows"] == len(rows)
    assert output.read_bytes() == (folder / f"whole.{format}").read_bytes()
    assert not [path for path in folder.iterdir() if ".partial" in path.name]
