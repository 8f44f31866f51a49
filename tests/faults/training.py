"""Training is killed, its run's folder and its cache are damaged: it ends with the weights of the undisturbed run."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.command import Command, Kind, Note
from tests.faults.damage import damage, files_below
from tests.support.runs import run_files, same, weights


class Training(Kind):
    def __init__(self, folder: Path):
        folder.mkdir()
        self._write_run_file(folder)
        ended = Command(folder, "train", "run.yaml").end()
        assert ended.code == 0, ended.said
        self._right, self._seconds = weights(folder / "run"), ended.seconds

    @staticmethod
    def _write_run_file(folder: Path) -> None:
        run_files(folder)("run", max_steps=30, checkpoint={"every_steps": 3})

    def trial(self, folder: Path, draw: random.Random, note: Note) -> None:
        self._write_run_file(folder)
        for _ in range(draw.randint(1, 3)):
            Command(folder, "train", "run.yaml").kill(draw, self._seconds, note)
            if draw.random() < 0.7:
                # The result in model/ is the user's once the run is finished.
                note(damage(draw, files_below(folder / draw.choice(["run", "cache"]), without=["model", "logs"])))
        ended = Command(folder, "train", "run.yaml").end()
        note(f"at last: {ended.code}")
        finished = (folder / "run" / "model").exists()
        assert ended.refused or (ended.code == 0 and finished), ended.said
        if finished:
            assert same(weights(folder / "run"), self._right), "other weights than the undisturbed run"
