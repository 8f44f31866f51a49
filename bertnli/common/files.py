"""Writes files and folders atomically (complete or not at all) and durably (they survive a power failure)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertnli.common import heartbeat
from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError, first_line
from bertnli.common.exchange import exchange
from bertnli.common.locks import try_lock
from bertnli.common.progress import say

# Bytes that are read and hashed in one call, which releases the GIL. Large parts: the thread waits less often for the
# GIL.
_PART = 1 << 22

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TRIES, _WAIT = 100, 0.1  # seconds


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

    Its name begins with a dot. What killed processes left there is removed first. Only one process at a time may write
    one `final`; with `unique` several may, and the last one wins. replace: an existing `final` is exchanged for it in
    one step, or where the file system cannot do that in two, which is said; without it, an existing `final` is an
    OSError unless it is an empty folder.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    outdated = final.with_name(f".{final.name}.old")
    if replace and os.path.lexists(outdated) and not os.path.lexists(final):  # killed between two steps
        outdated.rename(final)
    _remove(outdated)
    _remove_left(final)
    partial, alive = _make_partial(final, unique)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        if not (replace and os.path.lexists(final)):
            partial.rename(final)
        elif not exchange(partial, final):
            say(f"{final}: this file system cannot exchange folders, so for a moment there is no folder of this name")
            final.rename(outdated)
            partial.rename(final)
            _remove(outdated)
        sync(final.parent)
    finally:
        os.close(alive)
        _remove(partial)  # what is left of a failure, or what was replaced


def _make_partial(final: Path, unique: bool) -> tuple[Path, int]:
    """A temporary folder of `final`, and a descriptor that locks it while this process lives."""
    for _ in range(_TRIES):
        partial = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8] + '.' if unique else ''}partial")
        _remove(partial)
        partial.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another process took it for one of a dead process
            descriptor = os.open(partial, _FOLDER)
            if _take(descriptor, partial):
                return partial, descriptor
            os.close(descriptor)
    raise OSError(errno.EAGAIN, "other processes remove what is made here", str(final.parent))


def _remove_left(final: Path) -> None:
    """Remove the unique temporary folders of `final` whose processes are dead."""
    ours = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]{{8}}\.partial")
    with os.scandir(final.parent) as entries:
        left = [Path(entry.path) for entry in entries if ours.fullmatch(entry.name)]
    for path in left:
        try:
            descriptor = os.open(path, _FOLDER)
        except OSError:  # gone, or not ours
            continue
        try:
            if try_lock(descriptor) is None:  # without locks it may be another process's
                _remove(path)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    """Lock what is open until it is closed. False if another process holds it, or if `path` names another file now."""
    try:
        try_lock(descriptor)
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; what may not be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step: a reader sees the old or the new text, never a part.

    The temporary file has one name, so the next call takes over what a killed process left.
    """
    temporary = path.with_name(f".{path.name}.partial")
    # backslashreplace: a file name in the text may be invalid Unicode.
    with os.fdopen(_open_alone(temporary), "w", encoding="utf-8", errors="backslashreplace") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync(path.parent)


def _open_alone(path: Path) -> int:
    """An open, empty file that no other process writes. Waits a few seconds for one that does, then raises OSError."""
    for _ in range(_TRIES):
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        # Another process may hold it, or may have renamed it since it was opened.
        if _take(descriptor, path):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)
        time.sleep(_WAIT)
    raise OSError(errno.EAGAIN, "another process is writing it", str(path))


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file that only bertnli makes. Raises OSError for a link or anything else that somebody put in
    its place, also for a pipe, which would wait for ever."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return descriptor


def read_own(path: Path) -> str:
    """The UTF-8 text of a file that only bertnli makes. Raises OSError as `open_own` does, and UnicodeDecodeError."""
    with os.fdopen(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def existing_path(name_or_path: str) -> Path | None:
    """The path, with `~` expanded, if it exists; otherwise None, and the text can only be a name.

    Wherever the user may give a name or a path, this function decides which one it is: an existing path comes first.
    """
    try:
        path = Path(name_or_path).expanduser()
        return path if name_or_path and path.exists() else None
    except (OSError, RuntimeError, UnicodeError):  # too long, "~user" without a home, not in the locale's encoding
        return None


def kind_of(path: Path) -> str | None:
    """`a file`, `a folder`, or what else it is: reading a pipe would wait for ever. None if there is nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def check_kinds(folder: Path) -> None:
    """Raise InputError if a folder has anything but files and folders in it: reading a pipe would wait for ever."""
    with contextlib.suppress(OSError):  # the code that reads the folder reports this
        for path in folder.iterdir():
            if (kind := kind_of(path)) not in (None, "a file", "a folder"):
                raise InputError(str(path), found=kind, expected="a file", do="remove it")


def read_map(file: Path) -> dict[str, Any]:
    """The JSON map in a file, or {} if there is no such file. Raises InputError that names the file for other JSON."""
    try:
        kind = kind_of(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read", found=first_line(error), expected="JSON in UTF-8") from None
    if kind not in (None, "a file"):
        raise InputError(str(file), found=kind, expected="a JSON file")
    content = {} if kind is None else read_json(file)
    if not isinstance(content, dict):
        raise InputError(str(file), found=f"a JSON {type(content).__name__}", expected="a JSON map")
    return content


def read_json(file: Path) -> Any:
    """The JSON value in a file. Raises InputError that names the file if it cannot be read."""
    try:
        return json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read", found=str(error), expected="JSON in UTF-8") from None


def cache_dir() -> Path:
    """BERTNLI_CACHE, or the user's cache folder for bertnli. It may not exist yet. Raises InputError for a bad path, or
    if there is no home folder."""
    import platformdirs

    chosen = os.environ.get("BERTNLI_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        folder = Path(platformdirs.user_cache_dir("bertnli"))
    except RuntimeError:
        folder = Path("~")
    if not folder.is_absolute():  # older versions of platformdirs return ~ as it is
        found = repr(chosen) if chosen else "neither it nor HOME, and this user has no home folder"
        raise InputError("BERTNLI_CACHE", found=found, expected="a folder", do="set it to one that you can write")
    return folder
