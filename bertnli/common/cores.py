"""The number of cores that this process may use, and how long its OpenMP threads spin."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

# How long an OpenMP thread of torch spins at a barrier before it sleeps: iterations (libgomp), ms (LLVM, Intel).
_SPIN = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
_SPIN_SET_BY_USER = ("OMP_WAIT_POLICY", *_SPIN)


def usable_cores() -> int:
    """The number of cores, limited by the process's affinity mask and its container's CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max", which means no quota
        return cores


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Make OpenMP threads spin only for a short time, unless the user has set how they wait. Call it before torch
    loads.

    By default they spin for milliseconds at every barrier, while the thread that they wait for may need their core.
    Then two busy processes on the same two cores reduce the speed of training by 80% (benchmarks/LOG.md).
    """
    if not any(name in environment for name in _SPIN_SET_BY_USER):
        environment.update(_SPIN)
