"""Scoring ten thousand rows with and without one row of maximum length: how much it slows down the others."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import machine, work
from benchmarks.harness import Say, measure, spread
from benchmarks.peer import Peer, Run, stopwatch
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.work import MAX_LENGTH

_ALONE = 20  # how often one run scores the long row alone


@dataclass
class _File(BertnliScore):
    """One of the two files, as `name` says."""

    name: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        name, about = self.name, self.about
        super().__post_init__()
        self.name, self.about = name, about

    def check(self) -> list[float]:
        return []

    def quality(self, reference: Any) -> dict[str, Any]:
        return {}

    def prepare(self) -> None:
        self.load()


@dataclass
class _Alone(_File):
    """The long row alone, in a process that has scored it before."""

    unit: ClassVar[str] = "rows"
    row: tuple[str, str] = ("", "")

    def run(self, amount: int) -> Run:
        with stopwatch() as seconds:
            for _ in range(_ALONE):
                self.probabilities([self.row])
        return Run(_ALONE, seconds())


def long_row(folder: Path, model: str, data: str, rows: int, rounds: int, patience: float, say: Say) -> dict[str, Any]:
    """The second file has the rows of the first, and the long row in the middle."""
    given = work.scoring(folder, model, data, rows)
    lines = given.rows.read_text(encoding="utf-8").splitlines(keepends=True)
    long = "dog " * MAX_LENGTH, "a long row"
    middle = json.dumps({"sentence1": long[0], "sentence2": long[1], "gold_label": "-"}) + "\n"
    with_it = folder / "rows-with.jsonl"
    with_it.write_text("".join([*lines[: len(lines) // 2], middle, *lines[len(lines) // 2 :]]), encoding="utf-8")
    peers: list[Peer] = [
        _File(given, name="without", about="without the long row"),
        _File(replace(given, rows=with_it, pairs=given.pairs + 1), name="with", about="with one long row"),
        _Alone(given, name="alone", about="the long row alone", row=long),
    ]
    about = machine.describe()
    without, with_long, alone = measure(
        peers,
        amount=given.pairs + 1,
        warm_up=given.pairs // 8,
        rounds=rounds,
        logs=folder / "logs",
        say=say,
        patience=patience,
    )
    seconds = {one.peer.name: [run.seconds for run in one.runs] for one in (without, with_long)}
    more = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    record = {
        "rounds": rounds,
        "alone_seconds": spread([run.seconds / run.done for run in alone.runs]),
        "without_seconds": spread(seconds["without"]),
        "with_seconds": spread(seconds["with"]),
        "more_seconds": spread(more),
        # Half of the range of runs on the same file.
        "noise_seconds": (max(seconds["without"]) - min(seconds["without"])) / 2,
        "runs": [one.to_json() for one in (without, with_long, alone)],
    }
    return {"name": "long-row", "kind": "long-row", **about, "work": given.to_json(data), **record}
