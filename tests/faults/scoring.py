"""Scoring is killed, its unfinished work and its record are damaged: the output is that of the undisturbed run."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

from tests.faults.command import Command, Kind, Note, Prepare
from tests.faults.damage import damage, files_below
from tests.support import tiny
from tests.support.scored_files import CHUNK, FORMATS, write

_ROWS = 40 * CHUNK


def small_chunks() -> None:
    """So that a small file has many checkpoints."""
    from bertnli_export import score

    score.CHUNK["cpu"] = CHUNK
    score.score_file = partial(score.score_file, checkpoint_seconds=0.0)


_PREPARE: tuple[Prepare, tuple[object, ...]] = (small_chunks, ())


class Scoring(Kind):
    def __init__(self, folder: Path):
        folder.mkdir()
        self._bundle, self._folder = tiny.bundle(), folder
        self._right, self._seconds = {}, 0.0
        for format in FORMATS:
            write(folder / f"in.{format}", tiny.snli_rows(_ROWS))
            command = Command(folder, "score", self._bundle, f"in.{format}", f"out.{format}", prepare=_PREPARE)
            ended = command.end()
            assert ended.code == 0, ended.said
            self._right[format], self._seconds = (folder / f"out.{format}").read_bytes(), ended.seconds

    def trial(self, folder: Path, draw: random.Random, note: Note) -> None:
        format = draw.choice(FORMATS)
        note(format)
        shutil.copy(self._folder / f"in.{format}", folder)
        shutil.copytree(self._bundle, folder / "bundle")
        output = folder / f"out.{format}"
        arguments = ["score", "bundle", f"in.{format}", output.name]
        for _ in range(draw.randint(1, 3)):
            Command(folder, *arguments, prepare=_PREPARE).kill(draw, self._seconds, note)
            assert not output.exists() or output.read_bytes() == self._right[format], "a wrong output was published"
            if draw.random() < 0.7:
                # The input is the user's, and so is a finished output.
                note(damage(draw, files_below(folder, without=[f"in.{format}", output.name, "said.log", "bundle"])))
        if draw.random() < 0.2:
            note(damage(draw, files_below(folder / "bundle")))
        ended = Command(folder, *arguments, prepare=_PREPARE).end()
        note(f"at last: {ended.code}")
        assert ended.refused or (ended.code == 0 and output.exists()), ended.said
        if output.exists():
            assert output.read_bytes() == self._right[format], "a wrong output was published"
        shutil.rmtree(folder / "bundle")
        shutil.copytree(self._bundle, folder / "bundle")
        ended = Command(folder, *arguments, "--restart", prepare=_PREPARE).end()  # as the messages say
        assert ended.code == 0 and output.read_bytes() == self._right[format], ended.said
