"""A file that must stay the same while it is read: one checksum stands for its content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from bertnli.common.errors import RunError, first_line


class SameFile:
    """The file that had the name `path` when this object was made: the inode, size and time of change in `status`.

    name: for messages.
    """

    def __init__(self, path: str, name: str, status: os.stat_result):
        self._path, self._name, self._then = Path(path), name, status

    def open(self) -> BinaryIO:
        """The file, to be read. Raises RunError as `check` does."""
        file = self._path.open("rb")
        try:
            self._compare(os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file

    def check(self) -> None:
        """Raise RunError if the name belongs to another file by now, or if the file was written to."""
        try:
            now = self._path.stat()
        except OSError as error:
            raise self._changed(first_line(error)) from None
        self._compare(now)

    def _compare(self, now: os.stat_result) -> None:
        then = self._then
        if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino):
            raise self._changed("another file of this name")
        if now.st_size != then.st_size:
            raise self._changed(f"{now.st_size} bytes, at first {then.st_size}")
        if now.st_mtime_ns != then.st_mtime_ns:
            raise self._changed("that a program has written to it")

    def _changed(self, found: str) -> RunError:
        return RunError(
            f"{self._name}: was changed while it was read",
            found=found,
            do="start again when no program writes it (bertnli score: with --restart)",
        )
