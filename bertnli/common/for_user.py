"""What the user is told of any error that ends a command."""

from __future__ import annotations

from bertnli.common import memory
from bertnli.common.errors import BertnliError, Interrupted, RunError, causes


def as_told(error: BaseException) -> BertnliError | Interrupted | None:
    """The error to print in one message; None for a bug, whose traceback is shown.

    A signal may come in the middle of a library's start, and memory end anywhere: libraries make errors of their own of
    that, and some of our code takes those for damage to a file.
    """
    for cause in causes(error):
        if isinstance(cause, Interrupted):
            return cause
    short: RunError | None = memory.shortage(error)
    return short or (error if isinstance(error, BertnliError) else None)
