"""Keeps the memory that a training step frees for the next step, instead of returning it to the system.

A step on a CPU allocates and frees the same hundreds of megabytes again and again. By default glibc returns each large
block to the system, which then supplies new zeroed pages: up to 45,000 page faults in a step of MiniLM, a tenth of its
time. Peak memory stays the same; it is only kept between the steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """For this process, from now on; call it before torch allocates. It has an effect on glibc only."""
    # torch asks for huge pages for blocks of 2 MiB or more: one page fault instead of 512.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # oneDNN caches a kernel for each number of tokens, a new one in almost every step; 1024 of them take 400 MB.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    # torch caches 1024 more (ideep's lru_cache), 250 KB each: memory grows by 13 MB a step until the cache is full.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)  # no block gets a mapping of its own
        mallopt(_M_TRIM_THRESHOLD, -1)  # nothing is returned to the system
