"""Fetching is killed, the cache is damaged, the server breaks off: the data set is right, or there is none."""

from __future__ import annotations

import hashlib
import random
import zipfile
from io import BytesIO
from pathlib import Path

from bertnli.fetch.catalog import CATALOG
from bertnli.fetch.entry import Archive, Entry, Unpacked
from tests.faults.command import Command, Kind, Note
from tests.faults.damage import damage, files_below
from tests.support.http_stand_in import Hosted, StandIn

_ROWS = b"".join(b'{"row": %d, "text": "%d"}\n' % (row, row**9) for row in range(20_000))


def _zipped() -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # not compressed, so that the download takes a while
        archive.writestr(zipfile.ZipInfo("toy/rows.jsonl"), _ROWS)  # of a fixed date
    return stream.getvalue()


_ZIP = _zipped()


def only_the_toy(url: str) -> None:
    """The catalogue of this process is one data set."""

    def checksum(content: bytes) -> str:
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    archive = Archive("toy.zip", checksum(_ZIP), 10 * len(_ZIP), url=url)
    CATALOG.clear()
    CATALOG["toy"] = Entry(
        name="toy",
        kind="dataset",
        about="",
        licence="CC0",
        verified_by="sha256 of the file",
        size=len(_ROWS),
        files={"rows.jsonl": checksum(_ROWS)},
        sources=(Unpacked(archive, {"toy/rows.jsonl": "rows.jsonl"}),),
    )


class Fetching(Kind):
    def __init__(self, folder: Path):
        folder.mkdir()
        self._server = StandIn()
        self._server.__enter__()  # until this process ends
        self._seconds = 0.0
        self._run(folder)

    def _run(self, folder: Path) -> None:
        self._server.files["/toy.zip"] = Hosted(_ZIP)
        ended = self._command(folder).end()
        assert ended.code == 0, ended.said
        self._seconds = max(self._seconds, ended.seconds)
        assert (folder / "cache" / "datasets" / "toy" / "rows.jsonl").read_bytes() == _ROWS

    def _command(self, folder: Path) -> Command:
        return Command(folder, "fetch", "toy", prepare=(only_the_toy, (self._server.url("/toy.zip"),)))

    def trial(self, folder: Path, draw: random.Random, note: Note) -> None:
        for _ in range(draw.randint(1, 4)):
            cuts = [draw.randrange(len(_ZIP)) for _ in range(draw.randint(0, 2))]
            self._server.files["/toy.zip"] = Hosted(_ZIP, cut_after=cuts, bytes_per_second=len(_ZIP) * 2)
            self._command(folder).kill(draw, self._seconds + 0.5, note)
            if draw.random() < 0.7:
                note(damage(draw, files_below(folder / "cache")))
        self._run(folder)
        note(damage(draw, files_below(folder / "cache")))
        self._run(folder)
