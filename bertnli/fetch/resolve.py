"""`bertnli fetch`: from a name to a path. Fetches a data set or model, verifies it, and renames it into the cache."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import cache_dir, check_kinds, existing_path, new_folder
from bertnli.common.progress import megabytes, say
from bertnli.common.urls import is_url, redact
from bertnli.fetch.cache import Origin, copy_to, downloads_dir, folder_of, is_complete, lock, write_receipt
from bertnli.fetch.catalog import CATALOG, lookup, nearest
from bertnli.fetch.download import check, download
from bertnli.fetch.entry import (
    Archive,
    AsItIs,
    Entry,
    HubAnswerError,
    HubDataSet,
    HubModel,
    Kind,
    Source,
    SourceError,
    Unpacked,
)
from bertnli.fetch.given_copy import extract, from_given, verify
from bertnli.fetch.hub_data import download_rows
from bertnli.fetch.model_hub import ParseConfig, download_model
from bertnli.fetch.package_index import download_archive
from bertnli.fetch.remote_files import local_copy, remote_file

__all__ = ["NotFetchedError", "cache_dir", "check_name", "fetch", "resolve", "resolve_data", "resolve_model"]


_ORGANISATIONS = {  # of models that the hub lists by their names alone in older texts
    "bert": "google-bert",
    "roberta": "FacebookAI",
    "xlm-roberta": "FacebookAI",
    "distilbert": "distilbert",
    "distilroberta": "distilbert",
    "albert": "albert",
    "camembert": "almanach",
}


class NotFetchedError(RunError):
    """All sources of a name failed; `reason` says why for each source, in one line."""

    def __init__(self, what: str, reason: str, lines: Sequence[str]):
        super().__init__(what, lines=lines)
        self.reason = reason


def resolve(name_or_path: str, kind: Kind, parse_config: ParseConfig | None = None) -> Path:
    """The path itself if it exists; otherwise the path of the data set or model of that name, which is fetched.

    A name is one of the catalogue, or a model's hub id (`org/name` or `org/name@revision`). parse_config: as for
    `fetch`. Raises InputError that lists similar names for an unknown one, and for a model that cannot run; RunError if
    all its sources fail.
    """
    path = existing_path(name_or_path)
    if path is not None:
        return path
    check_name(name_or_path, kind)
    return fetch(name_or_path, parse_config=parse_config)


def check_name(name_or_path: str, kind: Kind) -> None:
    """Raises InputError as `resolve` does for a name that is unknown, and fetches nothing."""
    if existing_path(name_or_path) is not None:
        return
    if kind == "dataset" and is_url(name_or_path):
        remote_file(name_or_path.partition("#")[0])
        return
    name = name_or_path.partition("#")[0] if kind == "dataset" else name_or_path
    entry = lookup(name)
    if existing_path(name) is None and (entry is None or entry.kind != kind):
        if is_url(name):
            do = _hub_id(name) or "copy its folder here, and give its path; the URL of a bundle is for eval and score"
            raise InputError(f"{kind} {redact(name)!r}", found="a URL", expected=f"a path, {_names(name, kind)}", do=do)
        found = f"the name of a {entry.kind}" if entry else "neither an existing path nor a known name"
        raise InputError(f"{kind} {name!r}", found=found, expected=f"a path, {_names(name, kind)}", do=_hub_id(name))


class ResolvedModel(NamedTuple):
    """Where a model is, and the architecture that its name implies (`bert.small`); None: its files hold it."""

    path: Path
    arch: str | None


def resolve_model(name_or_path: str, parse_config: ParseConfig) -> ResolvedModel:
    """As `resolve` for a model, with what the catalogue knows of its architecture: what `pretrained.load` takes.

    Also raises InputError if its folder has a pipe or a device in place of a file.
    """
    entry = CATALOG.get(name_or_path)
    path = resolve(name_or_path, "model", parse_config)
    if path.is_dir():
        check_kinds(path)
    return ResolvedModel(path, entry.arch if entry else None)


def resolve_data(name_or_path: str) -> str:
    """As `resolve` for a data set, and keeps the `#member` of an archive. `PairFile` takes the result.

    Of a file elsewhere (remote_files.py) it is the path of a copy; `shown_name` is for messages and records.
    """
    path = existing_path(name_or_path)  # a file's own name may contain a #
    if path is not None:
        return str(path)
    file, mark, member = name_or_path.partition("#")
    if is_url(file):
        return f"{local_copy(file)}{mark}{member}"
    return f"{resolve(file, 'dataset')}{mark}{member}"


def shown_name(name_or_path: str) -> str | None:
    """What messages and records call a file elsewhere, whose path is that of a copy. None for all others."""
    return redact(name_or_path.partition("#")[0]) if is_url(name_or_path) else None


def fetch(
    name: str, *, to: Path | None = None, source: str | None = None, parse_config: ParseConfig | None = None
) -> Path:
    """The path of a data set's file or of a model's folder, fetched if the cache does not have it.

    name: of the catalogue, or a model's hub id. to: copy it into this folder too, and return the path of the copy.
    source: a file, folder or URL (`--from`) instead of the catalogue's sources; it is verified in the same way.
    parse_config: checks a hub model's config.json (families/folder_config.py), before its weights come.
    Raises InputError for an unknown name, a model that cannot run, an unusable `to` or `source`, or a cache that cannot
    be written; RunError if all sources fail or the disk is full. An incomplete file or folder never has the final name.
    """
    entry = lookup(name)
    if entry is None:
        raise InputError(f"fetch {name!r}", found="an unknown name", expected=_names(name), do=_hub_id(name))
    try:
        if to is not None and to.exists() and not to.is_dir():
            raise InputError(f"--to {to}", found="a file", expected="a folder, or a path for a new one")
        if is_complete(entry):
            if source is not None:
                say(f"{name}: already in the cache; {redact(source)} is not read")
        else:
            with lock(name):
                if not is_complete(entry):  # another process may have just fetched it
                    if folder_of(entry).exists():
                        say(f"{name}: {folder_of(entry)} is damaged or out of date; it is fetched again")
                    with new_folder(folder_of(entry), replace=True) as folder:
                        if source is not None:
                            origin = Origin(from_given(entry, source, folder))
                        else:
                            origin = _from_sources(entry, folder, parse_config)
                        write_receipt(entry, folder, origin)
                    _delete_unneeded_archives(entry)
        path = folder_of(entry) if entry.kind == "model" else folder_of(entry) / next(iter(entry.files))
    except OSError as error:
        raise _disk_error(entry, error) from error
    if to is None:
        return path
    try:
        return copy_to(path, to)
    except OSError as error:
        raise _disk_error(entry, error, to) from error


def _names(name: str, kind: Kind | None = None) -> str:
    """The names that the user may have meant."""
    close = nearest(name, kind)
    known = dict.fromkeys(entry.listed_as or entry.name for entry in CATALOG.values() if kind in (None, entry.kind))
    hub = {"dataset": ", or hf:org/name:split", "model": ", or a model's hub id (org/name)"}.get(
        kind or "", ", or a model's hub id (org/name) or hf:org/name:split"
    )
    return (f"perhaps {' or '.join(close)}" if close else f"one of {', '.join(known)}") + hub


def _hub_id(name: str) -> str | None:
    """What to do if the text means a model on the hub: its page's address, a catalogue name with a revision, or a name
    from the time before all had an organisation."""
    page = re.match(
        r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)([^/?#]+/[^/?#]+)(?:/tree/([^?#]+))?", name
    )
    if page:
        return f"give its hub id: {page[1]}{f'@{page[2]}' if page[2] else ''}"
    known, at, _ = name.partition("@")
    sources = CATALOG[known].sources if known in CATALOG else ()
    repo = next((source.repo for source in sources if isinstance(source, HubModel)), None)
    if repo is not None:
        return f"give its hub id: {repo}{name.removeprefix(known)}" if at else None
    organisation = next((org for start, org in _ORGANISATIONS.items() if re.match(rf"{start}-\w", name)), None)
    return f"give its hub id: {organisation}/{name}" if organisation and "/" not in name else None


def _disk_error(entry: Entry, error: OSError, to: Path | None = None) -> InputError | RunError:
    """to: the folder that was written, if it is not the cache."""
    # A copy's error has two names: the source's, and the one that could not be written.
    where = Path(error.filename2 or error.filename or to or cache_dir())
    in_cache = where.is_relative_to(cache_dir())  # otherwise it is the path of --from or --to, or of the hub's cache
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = f"; unpacked it takes about {megabytes(entry.size)}" if entry.size else ""
        variable = "BERTNLI_CACHE" if in_cache else "HF_HOME"
        other = "give another --to" if to is not None else f"set {variable} to a folder on another disk"
        return RunError(
            f"{entry.name}: no space left on the disk of {where}{need}",
            do=f"free some, or {other}, and run the same command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        fix = "set BERTNLI_CACHE to a folder that you can write" if in_cache else "give another path"
        return InputError(f"{entry.name}: {where} cannot be used ({error.strerror})", do=fix)
    return RunError(f"{entry.name}: {where} failed ({error.strerror or error})", do="fix this, then fetch it again")


# From the catalogue's sources


def _from_sources(entry: Entry, folder: Path, parse_config: ParseConfig | None) -> Origin:
    """Fill `folder` from the first source that works. Sources whose archive is already downloaded are tried first.

    Returns where the files came from. Raises RunError that lists all sources and why each failed, InputError for a hub
    id if the hub's answer would be the same the next time.
    """
    failures = []
    for source in sorted(entry.sources, key=lambda source: not _is_downloaded(source)):
        try:
            origin = _from_source(source, folder, next(iter(entry.files)), parse_config)
            verify(entry, folder)
            return origin
        except SourceError as error:
            if entry.name not in CATALOG and isinstance(error, HubAnswerError):
                what = "data set" if entry.kind == "dataset" else "model"
                raise InputError(f"{what} {entry.name!r}", found=error.found, do=error.do) from error
            say(f"{entry.name}: {source}: {error}")
            failures.append((source, error))
            _empty(folder)
    files = " or ".join(dict.fromkeys(archive.filename for archive in entry.archives))
    raise NotFetchedError(
        f"{entry.name}: all sources failed:",
        lines=[
            *(f"  {source}: {error}" for source, error in failures),
            f"The same command tries again, and continues a download. If you already have {files or 'its folder'}: "
            f"bertnli fetch {entry.name} --from {'FILE_OR_URL' if files else 'FOLDER'}",
            "Without a network: fetch it on a machine that has one, into a BERTNLI_CACHE that this machine can read.",
        ],
        reason="; ".join(f"{source}: {error}" for source, error in failures),
    )


def _is_downloaded(source: Source) -> bool:
    if not isinstance(source, Unpacked | AsItIs) or source.archive.checksum is None:
        return False
    return (downloads_dir() / source.archive.filename).exists()


def _from_source(source: Source, folder: Path, filename: str, parse_config: ParseConfig | None) -> Origin:
    """filename: of the one file of a data set."""
    if isinstance(source, HubModel):
        commit = download_model(source, folder, parse_config)
        return Origin(f"{source} at {commit}", commit)
    if isinstance(source, HubDataSet):
        commit = download_rows(source, folder / filename)
        return Origin(f"{source} at {commit}", commit)
    with lock(source.archive.filename):
        target, origin = _download(source.archive)
        extract(source, target, folder)
    return Origin(origin)


def _download(archive: Archive) -> tuple[Path, str]:
    """The archive's path in the cache, and where it came from. It is downloaded unless it is already there."""
    target = downloads_dir() / archive.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and archive.checksum is not None:
        try:
            check(target, archive.checksum)
            return target, str(archive)
        except SourceError as error:
            say(f"{error}; downloading it again")
            target.unlink()
    say(f"downloading {archive}")
    if archive.url is None:
        return target, f"{archive}, {download_archive(archive, target)}"
    download(archive.url, target, limit=archive.download_limit, size=archive.size, checksum=archive.checksum)
    return target, archive.url


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _delete_unneeded_archives(entry: Entry) -> None:
    """Delete the entry's archives, except those that contain another entry that is not yet fetched."""
    for filename in {archive.filename for archive in entry.archives}:
        users = [other for other in CATALOG.values() if filename in {archive.filename for archive in other.archives}]
        if all(is_complete(other) for other in users):
            with lock(filename):
                (downloads_dir() / filename).unlink(missing_ok=True)
