"""Too little memory, by whatever error a library reports it: one message that says what limits it and what to do."""

from __future__ import annotations

import errno
import mmap
import re
import resource

from bertnli.common.errors import BertnliError, RunError, causes, first_line

# torch, ONNX Runtime, the dynamic linker and Python's threads, in their own words.
_SHORT = re.compile(
    r"not enough memory|can.t allocate memory|cannot allocate memory|failed to allocate memory|bad_alloc|bad allocation"
    r"|error return without exception set|failed to map segment from shared object(?!.*not permitted)"
    r"|can.t start new thread",
    re.IGNORECASE,
)


def require(size: int) -> None:
    """Raises RunError if a limit (ulimit -v) leaves fewer than `size` MiB. Libraries in C abort where they get too few.

    Call it before they are imported. Without a limit it returns: how much memory is free, nobody knows before.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    try:
        mmap.mmap(-1, size << 20).close()
    except OSError as error:
        short = shortage(error)
        raise short if short is not None else error from None


def shortage(error: BaseException) -> RunError | None:
    """The error for the user if `error`, or one that led to it, is that memory could not be allocated; else None."""
    for cause in causes(error):
        if _is_shortage(cause):
            limit = resource.getrlimit(resource.RLIMIT_AS)[0]
            limited = limit != resource.RLIM_INFINITY
            return RunError(
                "too little memory",
                found=first_line(cause) + (f", with a limit of {limit >> 20:,} MiB (ulimit -v)" if limited else ""),
                do=("raise that limit" if limited else "free memory, or use a machine with more")
                + "; training needs less with a lower micro_batch_tokens, scoring with fewer --workers",
            )
    return None


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, BertnliError):
        return False
    return isinstance(error, MemoryError) or bool(
        isinstance(error, (RuntimeError, ImportError, SystemError)) and _SHORT.search(str(error))
    )
