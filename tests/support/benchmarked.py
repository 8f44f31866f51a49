"""For tests of the benchmarks: a peer that does nothing, made-up measurements of it, and small files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Measured, measure
from benchmarks.peer import Peer, Run, Unavailable
from tests.support import tiny


@dataclass
class StandIn(Peer):
    """Does nothing, and records each call in a diary."""

    diary: Path
    name: str = "a"
    about: str = "a stand-in"
    figures: tuple[float, ...] = (1.0, 2.0)
    fails_in: str = ""
    tolerance: float = 0.01
    memory: int = 0  # bytes that `prepare` uses for a moment
    check_memory: int = 0  # bytes that `check` uses for a moment
    starts: str = ""  # a program that it starts as a child

    def options(self) -> dict[str, Any]:
        return {"figures": list(self.figures)}

    def check(self) -> list[float]:
        np.ones(self.check_memory, np.uint8)
        if self.fails_in == "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        return list(self.figures)

    def prepare(self) -> None:
        np.ones(self.memory, np.uint8)
        if self.starts:
            child = subprocess.Popen([self.starts, "600"])
            (self.diary.parent / "child").write_text(str(child.pid))
        if self.fails_in == "missing":
            raise Unavailable("no such library here")
        if self.fails_in == "prepare":
            raise ValueError("what went wrong")
        print("said by the peer")

    def run(self, amount: int) -> Run:
        if self.fails_in == "run":
            os._exit(7)
        with self.diary.open("a") as diary:
            diary.write(f"{self.name} {amount} {os.getpid()}\n")
        return Run(amount, 2.0)


def run(peers: list[Peer], tmp_path: Path, rounds: int = 2) -> list[Measured]:
    return measure(peers, amount=10, warm_up=3, rounds=rounds, logs=tmp_path / "logs", say=lambda line: None)


def measured(name: str, rates: list[float], tmp_path: Path) -> Measured:
    runs = [Run(rate * 2, 2.0) for rate in rates]
    around = [{"load_1min": 0.5, "others_cores": 0.1} for _ in rates]
    return Measured(StandIn(tmp_path, name, about=f"the {name} way"), runs, around, difference=0.0, peak_rss=3 * 2**20)


def snli_file(folder: Path, rows: int) -> Path:
    path = folder / "snli.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(rows)))
    return path
