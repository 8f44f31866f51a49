"""Which files `bertnli score --ray` scores, and where the scores of each go. A file is called a partition here.

The input and the output are folders that every node sees, or folders of an object store, by their URLs.
"""

from __future__ import annotations

import glob
import itertools
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bertnli.common.errors import InputError
from bertnli.common.urls import is_url
from bertnli.data.formats import format_of
from bertnli.data.saved_dataset import data_files, describes_splits, is_saved, saved_folders, saved_names
from bertnli.fetch.remote_folder import ListedFile, RemoteFolder


class Partition(NamedTuple):
    """input, output: absolute paths, or URLs. The input may be a folder that `save_to_disk` made."""

    input: str
    output: str


def find_partitions(input: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Partition]:
    """The files of a folder and its subfolders, or those that a glob matches; the largest first.

    The output of each has the same name and the same subfolders in `output`; that of an Arrow file, and of a folder
    that `save_to_disk` made, is Parquet. Names that begin with `.` or `_` are ignored.

    Raises InputError if there are none, if one has an unknown format, if `output` holds data of other partitions, and
    for a URL that cannot be listed; RunError if the store fails.
    """
    source, target = _folder(input, pattern=True), _folder(output, pattern=False)
    files = _visible(source)
    if not files:
        raise InputError(
            f"{input}: no partition files", expected="a folder of files, or a glob as in 'parts/*.parquet'"
        )
    if isinstance(source, RemoteFolder) and (saved := saved_names([file.name for file in files])):
        raise InputError(
            f"{source.url_of(saved[0])}: a folder of Dataset.save_to_disk, in a store",
            expected="files, as Dataset.to_parquet writes them; or a glob, as in 's3://bucket/in/*/*.arrow'",
            do="write it with to_parquet(), or copy it to where every node sees it",
        )
    if target.is_file:
        raise InputError(f"{output}: a file", expected="with --ray, a folder")
    if _within(target.place, source.place) or any(_within(source.place_of(file.name), target.place) for file in files):
        raise InputError(f"{output}: is inside the input", do="name a folder outside of it")
    for file in files:
        if not (file.is_dataset or _is_data(file.name)):
            raise InputError(
                f"{source.url_of(file.name)}: unknown format",
                expected=".tsv, .csv or .jsonl (also with .gz or .zst), .parquet or .arrow",
                do="exclude it with a glob, as in 'parts/*.parquet'",
            )
    files.sort(key=lambda file: (-file.size, file.name))
    ours: dict[PurePosixPath, str] = {}
    for file in files:
        path, there = source.url_of(file.name), _output_name(file)
        if there in ours:
            raise InputError(f"{path}: has the same output as {ours[there]}", do="give one of them another name")
        ours[there] = path
    for file in _visible(target):
        name = PurePosixPath(file.name)
        if name not in ours and (file.is_dataset or _is_data(file.name)) and ".partial" not in name.name:
            raise InputError(
                f"{target.url_of(file.name)}: no partition of the input has this output",
                do="remove it, or name another output folder",
            )
    return [Partition(path, target.url_of(str(name))) for name, path in ours.items()]


class _LocalFolder:
    """Of a path what `RemoteFolder` is of a URL."""

    def __init__(self, given: str | os.PathLike[str], *, pattern: bool):
        path = Path(given).absolute()
        self.is_file = path.exists() and not path.is_dir()
        if path.is_dir() or not pattern:
            self._base = path.parent if pattern and is_saved(path) else path
            self._pattern = str(Path(glob.escape(str(path)), "**"))
        else:
            self._base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parent.parts))
            self._pattern = str(path)
        self.place = "", str(path.resolve())

    def files(self) -> list[ListedFile]:
        """A folder that `save_to_disk` made is one of them, in place of the files in it, if its state.json is found. A
        glob for the Arrow files alone finds these."""
        found = sorted(map(Path, glob.glob(self._pattern, recursive=True)))  # noqa: PTH207 Path.glob follows no links
        saved = saved_folders(found)
        files = [
            ListedFile(path.relative_to(self._base).as_posix(), path.stat().st_size)
            for path in found
            if path.is_file() and path.parent not in saved and not describes_splits(path, saved)
        ]
        for path in saved:
            size = sum(Path(file).stat().st_size for file in data_files(str(path)))
            files.append(ListedFile(path.relative_to(self._base).as_posix(), size, is_dataset=True))
        return files

    def url_of(self, name: str) -> str:
        return str(self._base / name)

    def place_of(self, name: str) -> tuple[str, str]:
        return "", str(self._base.resolve() / name)


def _folder(given: str | os.PathLike[str], *, pattern: bool) -> RemoteFolder | _LocalFolder:
    url = os.fspath(given)
    return RemoteFolder(url, pattern=pattern) if is_url(url) else _LocalFolder(given, pattern=pattern)


def _visible(folder: RemoteFolder | _LocalFolder) -> list[ListedFile]:
    """The files that programs which read a folder as a data set see."""
    return [file for file in folder.files() if not any(part.startswith((".", "_")) for part in file.name.split("/"))]


def _within(place: tuple[str, str], folder: tuple[str, str]) -> bool:
    """Whether the first is the second, or is inside of it."""
    return place[0] == folder[0] and f"{place[1]}/".startswith(f"{folder[1].rstrip('/')}/")


def _output_name(file: ListedFile) -> PurePosixPath:
    """Scores are not written as Arrow, but as Parquet, which holds the same types."""
    name = PurePosixPath(file.name)
    if file.is_dataset:
        return name.with_name(f"{name.name}.parquet")
    return name.with_suffix(".parquet") if format_of(name.name).kind == "arrow" else name


def _is_data(name: str) -> bool:
    try:
        return bool(format_of(PurePosixPath(name).name))
    except InputError:
        return False
