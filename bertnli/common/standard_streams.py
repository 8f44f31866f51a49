"""Standard output and error of a command: what is printed can neither end it nor undo its work.

A reader that has closed the pipe, a full disk and a terminal that is gone make `print` raise, and so does a character
that the locale's encoding does not have. Each process that prints for the user calls `protect` first. After that, what
cannot be encoded is escaped, and what cannot be written is dropped; `failure` says why.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO

from bertnli.common.errors import first_line


class _Descriptor(io.RawIOBase):
    """An open file descriptor. Once it cannot be written, `error` says why, and the rest is dropped."""

    def __init__(self, number: int, error: OSError | None = None):
        self._number, self.error = number, error

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        while self.error is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # a parent has made it non-blocking, and its reader is slow
                with contextlib.suppress(OSError):
                    select.select([], [self._number], [])
            except OSError as error:
                self.error = error
        return len(data)


_output: _Descriptor | None = None  # standard output, once it is protected


def protect() -> None:
    """Make `sys.stdout` and `sys.stderr` unable to fail. A stream that a test or a caller has replaced stays.

    The descriptors 0, 1 and 2 are opened if they are closed, or the next file would get such a number and the output.
    """
    global _output
    closed = {number for number in (0, 1, 2) if _is_closed(number)}
    for number in sorted(closed):
        os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if _output is None and sys.stdout is sys.__stdout__:
        _output = _Descriptor(1, OSError(errno.EBADF, "it is closed") if 1 in closed else None)
        sys.stdout = _text(_output, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Descriptor(2), sys.stderr)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
        return False
    except OSError:
        return True


def _text(descriptor: _Descriptor, like: TextIO | None) -> TextIO:
    encoding = "utf-8" if like is None else like.encoding
    each_line = descriptor.isatty() if like is None else getattr(like, "line_buffering", False)
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),  # type: ignore[type-var]
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=each_line,
        write_through=getattr(like, "write_through", False),
    )


def failure() -> OSError | None:
    """Why standard output could not be written; None if it could, or is not protected."""
    if _output is None:
        return None
    sys.stdout.flush()
    return _output.error


def exit_code(code: int) -> int:
    """The exit code of a command that would end with `code`: 1 instead of 0 if what it printed is lost.

    Says so on standard error. A reader that closes the pipe has read enough, and nobody reads a closed descriptor.
    """
    error = failure()
    if code or error is None or error.errno in (errno.EPIPE, errno.EBADF):
        return code
    print(
        f"bertnli: standard output: cannot be written ({first_line(error)}); "
        "the printed text is lost, but the files that the command writes are complete",
        file=sys.stderr,
    )
    return 1
