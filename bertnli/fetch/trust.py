"""Trust on first use, for data sets of which nobody publishes a checksum: the first one fetched is the one for ever.

`trusted.json` in the cache's folder holds, by the entry's name, the checksum of each file that was found first. It
outlives the files, so that another one under the same address is noticed, whoever put it there.
"""

from __future__ import annotations

import json
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir, digest, write_text
from bertnli.common.progress import say
from bertnli.data.pairs import PairFile
from bertnli.fetch.cache import lock
from bertnli.fetch.entry import Entry, SourceError


def check_first(entry: Entry, folder: Path) -> None:
    """Raise SourceError unless the files in `folder` are those that were trusted, or could be the first.

    A first one has to be a file of sentence pairs with the entry's columns: a log-in page is none.
    """
    trusted = _read().get(entry.name)
    for name in entry.files:
        if trusted is None:
            try:
                PairFile(folder / name, columns=entry.reading.columns)
            except InputError as error:
                raise SourceError(f"{name} is not what it should be: {error}") from error
        elif trusted.get(name) != (found := _checksum(folder / name)):
            raise SourceError(
                f"{name} is another file than the one trusted on first use: found {found}, expected "
                f"{trusted.get(name)}; if its maker has published a new one, take {entry.name!r} out of {_file()}"
            )


def keep(entry: Entry, folder: Path) -> None:
    """Trust the files in `folder` from now on, and say so, unless they are trusted already."""
    with lock("trusted"):
        known = _read()
        if entry.name not in known:
            known[entry.name] = {name: _checksum(folder / name) for name in entry.files}
            write_text(_file(), json.dumps(known, indent=2, sort_keys=True) + "\n")
            for name, checksum in known[entry.name].items():
                say(f"{name}: nobody publishes a checksum; trusted from now on as {checksum}, kept in {_file()}")


def _read() -> dict[str, dict[str, str]]:
    """Raises InputError for a damaged file: to begin with a new one would be to trust whatever comes."""
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(files, dict) for files in known.values()):
        raise InputError(
            f"{_file()}: damaged",
            expected="the checksums of data sets trusted on first use",
            do="restore it, or remove it to trust what is fetched next",
        )
    return known


def _file() -> Path:
    return cache_dir() / "trusted.json"


def _checksum(path: Path) -> str:
    return f"sha256:{digest(path)}"
