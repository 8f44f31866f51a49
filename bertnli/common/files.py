"""Writes files and folders atomically (complete or not at all) and durably (they survive a power failure)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertnli.common import heartbeat
from bertnli.common.errors import InputError

# Bytes that are read and hashed in one call, which releases the GIL. Large parts: the thread waits less often for the
# GIL.
_PART = 1 << 22


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file. algorithm: a name that hashlib knows."""
    hashed, part = hashlib.new(algorithm), memoryview(bytearray(_PART))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            hashed.update(part[:size])
            heartbeat.beat(f"reading {path}")
    return hashed.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk (fsync), so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno == errno.EIO:  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(final: Path, *, replace: bool = False, unique: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `final`. If the block succeeds, it is flushed to the disk and renamed to
    `final`.

    Its name begins with a dot. A folder with that name, which a killed process left, is removed first. So only one
    process at a time may write one `final`; with `unique` several may, and the last one wins. replace: an existing
    `final` is replaced; without it, an existing `final` is an OSError unless it is an empty folder.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8] + '.' if unique else ''}partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        outdated = partial.with_suffix(".old")
        shutil.rmtree(outdated, ignore_errors=True)
        if replace and final.exists():
            final.rename(outdated)
        partial.rename(final)
        sync(final.parent)
        shutil.rmtree(outdated, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step: a reader sees the old or the new text, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # backslashreplace: a file name in the text may be invalid Unicode.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def existing_path(name_or_path: str) -> Path | None:
    """The path, with `~` expanded, if it exists; otherwise None, and the text can only be a name.

    Wherever the user may give a name or a path, this function decides which one it is: an existing path comes first.
    """
    try:
        path = Path(name_or_path).expanduser()
        return path if name_or_path and path.exists() else None
    except (OSError, RuntimeError, UnicodeError):  # too long, "~user" without a home, not in the locale's encoding
        return None


def read_map(file: Path) -> dict[str, Any]:
    """The JSON map in a file, or {} if there is no such file. Raises InputError that names the file for other JSON."""
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise InputError(str(file), found=f"a JSON {type(content).__name__}", expected="a JSON map")
    return content


def read_json(file: Path) -> Any:
    """The JSON value in a file. Raises InputError that names the file if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read", found=str(error), expected="JSON in UTF-8") from None


def cache_dir() -> Path:
    """BERTNLI_CACHE, or the user's cache folder for bertnli. It may not exist yet. Raises InputError for a bad path."""
    import platformdirs

    chosen = os.environ.get("BERTNLI_CACHE")
    try:
        return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("bertnli"))
    except RuntimeError as error:
        raise InputError("BERTNLI_CACHE", found=repr(chosen), expected=f"a folder ({error})") from error
