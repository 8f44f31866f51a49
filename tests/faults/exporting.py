"""Exporting is killed: there is a whole bundle or none. A bundle that is damaged afterwards is recognised."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.command import Command, Kind, Note
from tests.faults.damage import damage, files_below
from tests.support import tiny


class Exporting(Kind):
    def __init__(self, folder: Path):
        tiny.hf_folder(folder / "model")
        ended = Command(folder, "export", "model", "bundle").end()
        assert ended.code == 0, ended.said
        self._seconds = ended.seconds

    def trial(self, folder: Path, draw: random.Random, note: Note) -> None:
        tiny.hf_folder(folder / "model")
        for _ in range(draw.randint(1, 2)):
            Command(folder, "export", "model", "bundle", "--force").kill(draw, self._seconds, note)
        bundle = folder / "bundle"
        if bundle.exists():
            note("published")
        else:
            ended = Command(folder, "export", "model", "bundle").end()
            assert ended.code == 0, ended.said
        ended = Command(folder, "verify", "bundle").end()
        assert ended.code == 0, ended.said
        note(damage(draw, files_below(bundle, without=["manifest.json", "README.md"])))
        ended = Command(folder, "verify", "bundle").end()
        assert ended.refused, f"{ended.code}: {ended.said}"
        tiny.hf_folder(folder / "model")
        note(f"of the model: {damage(draw, files_below(folder / 'model'))}")
        ended = Command(folder, "export", "model", "another").end()
        note(f"at last: {ended.code}")
        assert ended.refused or ended.code == 0, ended.said
        if (folder / "another").exists():
            assert Command(folder, "verify", "another").end().code == 0, "a bundle that does not verify"
