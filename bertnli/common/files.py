"""Files and folders that appear complete or not at all, and survive a power cut."""

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

# Read and hashed at once, with the GIL let go: the fewer parts, the less a thread waits for it beside a busy one.
_PART = 1 << 22


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's hexadecimal digest. `algorithm` is a name that hashlib knows."""
    hashed, part = hashlib.new(algorithm), memoryview(bytearray(_PART))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            hashed.update(part[:size])
            heartbeat.beat(f"reading {path}")
    return hashed.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, so that it outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno == errno.EIO:  # not every file system can flush a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(final: Path, *, replace: bool = False, unique: bool = False) -> Iterator[Path]:
    """A temporary folder beside `final`; when the block ends without error it is flushed to the disk and renamed.

    Its name begins with a dot. What a killed process left under that name is removed first, so only one process at a
    time may write one `final`; with `unique` several may, and the last one wins. `replace`: a folder that is called
    `final` by then is moved away and removed; without `replace` that is an OSError, unless that folder is empty.
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
    """Replace the file's content in one step: a reader sees the old or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A file name in the text need not be valid Unicode: backslashreplace.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def existing_path(name_or_path: str) -> Path | None:
    """The path, with `~` expanded, if it exists; otherwise None, and the text can only be a name.

    Wherever the user may give a name or a path, this function decides which one it is: an existing path comes first.
    """
    try:
        path = Path(name_or_path).expanduser()
        return path if name_or_path and path.exists() else None
    except (OSError, RuntimeError):  # too long for the file system, or "~user" without a home folder
        return None


def read_map(file: Path) -> dict[str, Any]:
    """The JSON map in a file, empty if there is no such file; InputError naming it if it holds something else."""
    content = _read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise InputError(str(file), found=f"a JSON {type(content).__name__}", expected="a JSON map")
    return content


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read", found=str(error), expected="JSON in UTF-8") from None


def cache_dir() -> Path:
    """BERTNLI_CACHE, else the user's cache folder for bertnli; it need not exist. Raises InputError for a bad one."""
    import platformdirs

    chosen = os.environ.get("BERTNLI_CACHE")
    try:
        return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("bertnli"))
    except RuntimeError as error:
        raise InputError("BERTNLI_CACHE", found=repr(chosen), expected=f"a folder ({error})") from error
