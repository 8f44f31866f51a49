"""Files that outlive a power cut and are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.heartbeat import pulse

# Read and hashed at once, with the GIL let go: the fewer parts, the less a thread waits for it beside a busy one.
_PART = 1 << 22


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's hexadecimal digest. `algorithm` is a name that hashlib knows."""
    hashed, part = hashlib.new(algorithm), memoryview(bytearray(_PART))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            hashed.update(part[:size])
            pulse(f"reading {path}")
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
