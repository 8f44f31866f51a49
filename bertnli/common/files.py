"""Files that outlive a power cut and are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

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
