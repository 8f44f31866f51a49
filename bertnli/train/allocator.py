"""Memory that a training step frees is kept for the next one instead of going back to the system.

A step on a CPU allocates and frees the same hundreds of megabytes again and again. By default glibc returns each large
block and the system hands out zeroed pages anew at the next touch: up to 45,000 page faults a step of MiniLM, a tenth
of its time. Peak memory stays the same; it is only held between the steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """For this process, from now on; call it before torch allocates. Another C library than glibc stays as it is."""
    # torch asks for huge pages for what is 2 MiB or larger: one fault in place of 512.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # oneDNN keeps a kernel for each number of tokens, a new one in almost every step; 1024 of them take 400 MB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # torch keeps 1024 more by itself (ideep's lru_cache), 250 KB each: a leak of 13 MB a step until they are that many.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)  # no block gets a mapping of its own
        mallopt(_M_TRIM_THRESHOLD, -1)  # nothing is given back
