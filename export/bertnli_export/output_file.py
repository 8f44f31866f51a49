"""Where the bytes of an output go: a file that only grows until it is finished, or standard output.

A partial file is durable up to its last `sync`, and a later run can continue there. Its final name appears in one
rename.
"""

from __future__ import annotations

import errno
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.files import open_own, sync
from bertnli.common.locks import lock_descriptor

_PART = 1 << 22  # bytes read at once


class BusyError(InputError):
    """Another process writes the same output, or did until a moment ago. Once it has ended, a caller may try again."""


def partial_path(output: str | os.PathLike[str]) -> Path:
    """Where the unfinished work for `output` is. The file is gone once the output is finished."""
    final = Path(os.path.realpath(output))
    return final.with_name(f"{final.name}.partial")


def check_output(output: str | os.PathLike[str], input: str) -> None:
    """Raise InputError if `output` exists and is not a file, if its partial file is a link, which somebody else must
    have made, or if it or its partial file is the input."""
    final, partial = Path(output), partial_path(output)
    if partial.is_symlink():
        raise InputError(f"{partial}: a symbolic link, which is not followed", do="remove it, or give another OUTPUT")
    if final.exists() and not final.is_file():
        raise InputError(f"{output}: not a file", do="name one, or - for standard output")
    for path, what in ((final, "the output"), (partial, f"{partial.name}, its unfinished work,")):
        if input != "-" and path.exists() and path.samefile(input):
            raise InputError(f"{output}: {what} is the input", do="give it another name")


class PartialFile:
    """A file that only grows, under its partial name until it is published. It is locked while it is open."""

    def __init__(self, output: str, input: str, resume_at: Mapping[str, Any] | None):
        self._final, self.path = Path(os.path.realpath(output)), partial_path(output)
        check_output(output, input)
        self.size, self.crc32 = (0, 0) if resume_at is None else (int(resume_at["bytes"]), int(resume_at["crc32"]))
        try:
            self._fd = open_own(self.path, os.O_RDWR | (os.O_CREAT if resume_at is None else 0))
        except FileNotFoundError:
            if resume_at is None:
                raise InputError(f"{output}: there is no folder {self.path.parent}", do="make it first") from None
            if self._final.exists():
                raise self._busy() from None  # another process finished it after our caller looked
            raise self._lost("nothing") from None
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({first_line(error)})", do="give another OUTPUT"
            ) from None
        try:
            self._lock()
            found = os.fstat(self._fd).st_size
            if found < self.size:
                raise self._lost(f"{found} bytes")
            if resume_at is not None and self._checksum_of_file() != resume_at["crc32"]:
                raise self._lost("other bytes than were written")
            with writing(self.path):
                os.ftruncate(self._fd, self.size)
                os.lseek(self._fd, self.size, os.SEEK_SET)
                sync(self.path.parent)
        except BaseException:
            self.close()
            raise

    def _checksum_of_file(self) -> int:
        """CRC-32 of its first `size` bytes."""
        checksum, rest = 0, self.size
        while rest and (part := os.pread(self._fd, min(rest, _PART), self.size - rest)):
            checksum, rest = zlib.crc32(part, checksum), rest - len(part)
        return checksum

    def _lost(self, found: str) -> InputError:
        return InputError(
            f"{self.path}: unfinished work is lost",
            found=found,
            expected=f"{self.size} bytes",
            do="start over with --restart",
        )

    def _busy(self) -> BusyError:
        return BusyError(f"{self.path}: another process is writing it", do="wait for it to end, or name another output")

    def _lock(self) -> None:
        try:
            lock_descriptor(self._fd, self.path)
        except BlockingIOError:
            raise self._busy() from None
        if not self.path.exists() or not os.path.samestat(os.fstat(self._fd), self.path.stat()):
            raise self._busy()  # another process finished it after we opened it and before we locked it

    def append(self, data: bytes) -> None:
        """Write `data` at the end."""
        rest = memoryview(data)
        with writing(self.path):
            while rest:
                written = os.write(self._fd, rest)
                self.crc32 = zlib.crc32(rest[:written], self.crc32)
                self.size += written
                rest = rest[written:]

    def sync(self) -> None:
        with writing(self.path):
            os.fsync(self._fd)

    def publish(self, finished: Path | None = None) -> None:
        """Give the final name to the partial file, or to `finished`, which was made from it."""
        with writing(finished or self.path):
            if finished is None:
                self.path.replace(self._final)
            else:
                with finished.open("rb+") as file:
                    os.fsync(file.fileno())
                finished.replace(self._final)
                sync(self._final.parent)
                self.path.unlink()
            sync(self._final.parent)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class StandardOutput:
    """Standard output with the same methods; nothing has to be made durable."""

    def __init__(self) -> None:
        self.size = self.crc32 = 0

    def append(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise RunError(
                "standard output: the reader closed it before the end",
                do="write to a file: its run can be resumed",
            ) from None
        except OSError as error:
            raise RunError(
                f"standard output: cannot be written ({first_line(error)})", do="make room, and start again"
            ) from None
        self.size += len(data)

    def sync(self) -> None: ...

    def publish(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes a RunError of an error of the system."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise RunError(
            f"{path}: cannot be written ({first_line(error)})",
            do=("make room there" if full else "fix this") + ", then give the same command again, without --restart: "
            "unless it reads a pipe, it continues after the last checkpoint",
        ) from None
