"""The files of a model: those of a folder, or the d2l files in a zip."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from bertnli.common import encodings
from bertnli.common.errors import InputError
from bertnli.common.files import check_kinds

D2L_WEIGHTS = ("classifier.params", "pretrained.params")  # the reader's own fine-tuned model before the book's

Files = dict[str, Callable[[], bytes]]  # a model's files: name -> a function that reads it

# Limits in bytes for an unpacked member of a zip: a small zip can contain a disk full of zeros.
_LARGEST_VOCABULARY = 2**26
_LARGEST_WEIGHTS = 2**32


def open_files(path: Path) -> Files:
    """The files of a folder, or the d2l files in a zip, in any folder inside it (the book's zip has one).

    Raises InputError if there is neither, or if a folder has a pipe or a device in it.
    """
    try:
        if path.is_dir():
            check_kinds(path)
            return {entry.name: entry.read_bytes for entry in path.iterdir()}
        kind = "a zip" if zipfile.is_zipfile(path) else "a file" if path.exists() else "nothing there"
        members = _members(path) if kind == "a zip" else []
    except InputError:
        raise
    except Exception as error:  # for a damaged archive zipfile raises errors of many types
        raise InputError(f"model {path}: cannot be read: {error}", expected="a folder or a d2l zip") from None
    if kind != "a zip":
        in_model = kind == "a file" and (path.parent / "config.json").is_file()
        do = f"give its folder: {path.parent}" if in_model else None
        raise InputError(f"model {path}", found=kind, expected="a folder or a d2l zip", do=do)
    files: Files = {}
    for member in members:
        name = PurePosixPath(member.filename).name
        if name in files:
            raise InputError(f"{path}: several {name}", expected="the files of one model")
        files[name] = partial(_read_member, path, member)
    return files


def _members(archive_path: Path) -> list[zipfile.ZipInfo]:
    """The zip's members that belong to a d2l model; macOS adds others in `__MACOSX`."""
    with zipfile.ZipFile(archive_path) as archive:
        return [
            member
            for member in archive.infolist()
            if PurePosixPath(member.filename).name in ("vocab.json", *D2L_WEIGHTS)
            and "__MACOSX" not in PurePosixPath(member.filename).parts
        ]


def _read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """The unpacked bytes, in memory: no file is written, so the paths in the archive do no harm."""
    where = f"{path}/{member.filename}"
    most = _LARGEST_VOCABULARY if where.endswith(".json") else _LARGEST_WEIGHTS
    if member.file_size > most:
        raise InputError(where, found=f"{member.file_size:,} bytes unpacked", expected=f"{most:,} at most")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(where, found=f"compression method {member.compress_type}", expected="stored or deflated")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return file.read(member.file_size + 1)  # a limit even if the archive states a wrong size
    except Exception as error:  # as in open_files
        raise InputError(f"{where}: cannot be read: {error}", do="fetch it again") from None


def read(files: Files, name: str, path: Path) -> bytes:
    try:
        return files[name]()
    except OSError as error:
        raise InputError(f"{path}/{name}: cannot be read: {error.strerror or error}", do="make it readable") from None


def read_json(files: Files, name: str, path: Path) -> Any:
    content = read(files, name, path)
    try:
        return json.loads(encodings.decoded(content, f"{path}/{name}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}/{name}: cannot be read", found=str(error), expected="JSON in UTF-8") from None
