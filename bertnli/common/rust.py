"""Calls a function of a library in Rust, whose panics are not Exceptions and print a stack."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def call(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Its result. Raises its errors as they are, and RuntimeError for a panic, whose stack is not printed.

    For calls that load something: what other threads print to standard error meanwhile appears a moment later, or is
    lost if the call panics.
    """
    try:
        with _printed_unless_it_panics():
            return function(*arguments, **options)
    except BaseException as error:
        if is_panic(error):
            raise RuntimeError(f"the library panicked: {error}") from None
        raise


def is_panic(error: BaseException) -> bool:
    """Whether it is pyo3's PanicException, which cannot be imported and derives from BaseException alone."""
    return type(error).__name__ == "PanicException"


@contextmanager
def _printed_unless_it_panics() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as kept:
        panicked = False
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            if not panicked and (text := kept.read()):
                os.write(2, text)
