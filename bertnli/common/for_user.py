"""What the user is told of any error that ends a command."""

from __future__ import annotations

import errno
import os
import resource

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
    short: RunError | None = memory.shortage(error) or _too_many_files(error)
    return short or (error if isinstance(error, BertnliError) else None)


def _too_many_files(error: BaseException) -> RunError | None:
    words = os.strerror(errno.EMFILE)
    for cause in causes(error):
        if getattr(cause, "errno", None) == errno.EMFILE or (isinstance(cause, RuntimeError) and words in str(cause)):
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return RunError(
                "too many open files", found=f"a limit of {limit} (ulimit -n)", do="raise it: ulimit -n 1024"
            )
    return None
