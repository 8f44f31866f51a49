"""Calls a function of a library in Rust, whose panics are not Exceptions and print a stack."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class PanicError(Exception):
    """A panic: a mistake in the library, which a damaged file can lead to."""


def call(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Its result. Raises its errors as they are, and PanicError for a panic, whose stack is not printed.

    For calls that load something: what other threads print to standard error meanwhile appears a moment later, or is
    lost if the call fails.
    """
    try:
        with _printed_unless_it_fails():
            return function(*arguments, **options)
    except BaseException as error:
        # pyo3's class cannot be imported, and derives from BaseException alone.
        if type(error).__name__ == "PanicException":
            raise PanicError(f"the library panicked: {error}") from None
        raise


@contextmanager
def _printed_unless_it_fails() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    # in memory: there may be no folder for temporary files, in a read-only container or on a full disk
    with os.fdopen(os.memfd_create("stderr"), "w+b") as kept:
        failed = True
        os.dup2(kept.fileno(), 2)
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            if not failed and (text := kept.read()):
                with contextlib.suppress(OSError):  # nobody reads it
                    os.write(2, text)
