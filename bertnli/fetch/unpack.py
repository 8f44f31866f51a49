"""Extracts members from a zip or tar archive that is not trusted: no path leaves the folder, and sizes are limited."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from bertnli.fetch.entry import SourceError

# The standard library raises these for an archive that is truncated, damaged, encrypted or packed in an unknown way.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    path: str
    size: int  # unpacked bytes, according to the archive
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path,
    members: Mapping[str, str],
    folder: Path,
    *,
    limit: int,
    first_lines: int | None = None,
    rows: tuple[str, str] | None = None,
    crlf: bool = False,
) -> None:
    """Write members of an archive into `folder`, which must exist.

    members: the last parts of a member's path -> the file's name in `folder`; each must match exactly one member.
    first_lines: keep only so many lines. rows: (column, cell); keep a TSV's header and its rows with that cell. crlf:
    make all line ends CR LF. limit: bytes; if all members together are larger, nothing is written.

    Raises SourceError for an archive that is damaged, lacks a member or is larger than `limit`, and if any member,
    wanted or not, has a path outside the archive's folder or is a link or a device.
    """
    wanted = {PurePosixPath(path).parts: name for path, name in members.items()}
    try:
        with _open(archive) as listing:
            found: dict[str, _Member] = {}
            total = 0
            for member in listing:
                _check_safe(archive, member)
                total += member.size
                if total > limit:
                    raise SourceError(
                        f"{archive.name} contains more than {limit:,} bytes: refused as a decompression bomb"
                    )
                parts = PurePosixPath(member.path).parts
                for ending, name in wanted.items():
                    if member.is_file and parts[-len(ending) :] == ending:
                        if name in found:
                            raise SourceError(f"{archive.name} contains both {found[name].path} and {member.path}")
                        found[name] = member
            missing = [path for path, name in members.items() if name not in found]
            if missing:
                raise SourceError(f"{archive.name} does not contain {', '.join(missing)}")
            for name, member in found.items():
                if rows is None:
                    _copy(member, folder / name, first_lines, crlf)
                else:
                    _copy_rows(member, folder / name, *rows)
    except _DAMAGED as error:
        raise SourceError(f"{archive.name} is damaged ({str(error) or type(error).__name__})") from error


@contextmanager
def _open(archive: Path) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tarred:
            yield (_tar_member(tarred, info) for info in tarred)
    else:
        raise SourceError(f"{archive.name} is neither a zip nor a tar archive")


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    # The upper 16 bits are the Unix mode if a Unix system made the archive. Type 0 means "not given": a regular file.
    file_type = stat.S_IFMT(info.external_attr >> 16)
    is_file = not info.is_dir() and file_type in (0, stat.S_IFREG)
    return _Member(info.filename, info.file_size, is_file, info.is_dir(), lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def open_member() -> IO[bytes]:
        stream = archive.extractfile(info)
        assert stream is not None, "only called for regular files"
        return stream

    return _Member(info.name, info.size, info.isfile(), info.isdir(), open_member)


def _check_safe(archive: Path, member: _Member) -> None:
    path = member.path.replace("\\", "/")  # Windows would read it so
    if path.startswith("/") or ".." in path.split("/") or re.match("[A-Za-z]:", path):
        raise SourceError(f"{archive.name} contains a path outside its folder: {member.path!r}")
    if not (member.is_file or member.is_folder):
        raise SourceError(f"{archive.name} contains a link or device: {member.path!r}")


def _copy(member: _Member, target: Path, first_lines: int | None, crlf: bool) -> None:
    """Copy a member. zipfile and tarfile read at most the size that the archive states, and zipfile checks the CRC."""
    with member.open() as stream, target.open("wb") as file:
        if first_lines is None and not crlf:
            shutil.copyfileobj(stream, file, 1 << 20)
            if file.tell() != member.size:
                raise SourceError(f"{member.path}: found {file.tell():,} bytes, expected {member.size:,}")
            return
        count = 0
        for count, line in enumerate(stream, start=1):
            file.write(line.rstrip(b"\r\n") + b"\r\n" if crlf else line)
            if count == first_lines:
                return
    if first_lines is not None:
        raise SourceError(f"{member.path}: found {count:,} lines, expected at least {first_lines:,}")


def _copy_rows(member: _Member, target: Path, column: str, wanted: str) -> None:
    def cells(line: bytes) -> list[bytes]:
        return line.rstrip(b"\r\n").split(b"\t")

    with member.open() as stream, target.open("wb") as file:
        header = next(stream, b"")
        if column.encode() not in cells(header):
            raise SourceError(f"{member.path}: no column {column!r} in its header")
        at = cells(header).index(column.encode())
        file.write(header)
        chosen = [line for line in stream if cells(line)[at : at + 1] == [wanted.encode()]]
        if not chosen:
            raise SourceError(f"{member.path}: no row with {wanted!r} in column {column!r}")
        file.writelines(chosen)
