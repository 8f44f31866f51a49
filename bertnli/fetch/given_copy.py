"""`bertnli fetch --from`: the user's own copy in place of the catalogue's sources; it is verified in the same way."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from urllib.parse import unquote

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import digest, existing_path
from bertnli.common.progress import say
from bertnli.common.urls import is_url, redact
from bertnli.fetch.cache import downloads_dir, lock
from bertnli.fetch.download import check, download
from bertnli.fetch.entry import AsItIs, Entry, SourceError, Unpacked
from bertnli.fetch.model_hub import copy_model
from bertnli.fetch.remote_files import local_copy, passing_copy, remote_file
from bertnli.fetch.unpack import unpack


def from_given(entry: Entry, given: str, folder: Path) -> str:
    """Fill `folder` from an archive of the entry, its file, the URL of one of these, or a model's folder."""
    if is_url(given) and not given.startswith("file://"):
        _from_url(entry, given, folder)
        return redact(given)
    path = existing_path(unquote(given.removeprefix("file://")) if given.startswith("file://") else given)
    if path is None:
        raise InputError(f"--from {given}", found="no such file or folder", expected="a path or a URL")
    try:
        _take(entry, path, folder)
    except SourceError as error:
        raise InputError(f"{entry.name}: --from {given}: {error}") from error
    return str(path.absolute())


def _from_url(entry: Entry, url: str, folder: Path) -> None:
    limit = max([archive.download_limit for archive in entry.archives] + [entry.size or 0])
    if not entry.archives:
        raise InputError(f"--from {redact(url)}", found="a URL", expected=f"a folder: {entry.name} has several files")
    if not url.lower().startswith(("http://", "https://")):
        _from_store(entry, url, folder, limit)
        return
    target = downloads_dir() / f"given-{redact(url).rpartition('/')[2]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock(target.name):
            say(f"downloading {redact(url)}")
            download(url, target, limit=limit)
            try:
                _take(entry, target, folder)
            finally:
                target.unlink()
    except SourceError as error:
        raise RunError(f"{entry.name}: --from {redact(url)}: {error}") from error


def _from_store(entry: Entry, url: str, folder: Path, limit: int) -> None:
    """The same for s3:// and others. The copy is removed: what it holds is in the cache afterwards."""
    version = remote_file(url).version()
    if version is not None and (version.size or 0) > limit:
        found, expected = f"{version.size:,} bytes", f"at most {limit:,}"
        raise InputError(f"--from {redact(url)}: not a file of {entry.name}", found=found, expected=expected)
    with passing_copy(url, math.inf):
        try:
            _take(entry, local_copy(url), folder)
        except SourceError as error:
            raise InputError(f"{entry.name}: --from {redact(url)}: {error}") from error


def _take(entry: Entry, path: Path, folder: Path) -> None:
    """Find by its checksum which file of the entry `path` is, and fill `folder` from it.

    Raises SourceError if it is not a file of the entry, or cannot be verified.
    """
    if path.is_dir():
        _take_folder(entry, path, folder)
        return
    checksums = [*entry.files.values(), *(archive.checksum for archive in entry.archives)]
    algorithms = {"sha256", "sha1", *(checksum.partition(":")[0] for checksum in checksums if checksum)}
    found = {f"{algorithm}:{digest(path, algorithm)}" for algorithm in algorithms}
    for source in entry.sources:
        if isinstance(source, Unpacked | AsItIs) and source.archive.checksum in found:
            extract(source, path, folder)
            verify(entry, folder)
            return
    known: dict[str, str | None] = {archive.filename: archive.checksum for archive in entry.archives}
    if entry.kind == "dataset":
        for name, checksum in entry.files.items():
            if checksum is not None:
                known[name] = checksum
                if checksum in found:
                    shutil.copyfile(path, folder / name)
                    return
    raise SourceError(
        f"not one of its files: found {' and '.join(sorted(found))}; expected "
        + (" or ".join(f"{name} with {checksum}" for name, checksum in known.items()) or "a model's folder")
        + f". A {entry.kind} of your own need not be fetched: give its path in place of a name"
    )


def _take_folder(entry: Entry, path: Path, folder: Path) -> None:
    if entry.archives and not any(entry.files.values()):
        raise SourceError(
            f"a folder cannot be verified ({entry.verified_by}): give {entry.archives[0].filename}, "
            "or use the folder's path in place of the name"
        )
    if entry.kind == "model":
        copy_model(path, folder)
    else:
        for name in entry.files:
            if (path / name).is_file():
                shutil.copyfile(path / name, folder / name)
    verify(entry, folder)
    if not any(entry.files.values()):
        say(f"{entry.name}: not verified, because the catalogue has no checksum of it")


def extract(source: Unpacked | AsItIs, path: Path, folder: Path) -> None:
    """Fill `folder` with the source's files from its archive at `path`."""
    if isinstance(source, AsItIs):
        shutil.copyfile(path, folder / source.archive.filename)
        return
    unpack(
        path,
        source.members,
        folder,
        limit=source.archive.unpacked_limit,
        first_lines=source.first_lines,
        rows=source.rows,
        crlf=source.crlf,
    )


def verify(entry: Entry, folder: Path) -> None:
    """Raise SourceError unless `folder` has the entry's files, with their checksums."""
    for name, checksum in entry.files.items():
        if not (folder / name).is_file():
            raise SourceError(f"{name} is missing")
        if checksum is not None:
            check(folder / name, checksum)
