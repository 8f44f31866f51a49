"""The cores that this process may use, and how its OpenMP threads wait on them."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

# How long a thread of torch's OpenMP spins at a barrier before it sleeps: rounds of libgomp, ms of LLVM's and Intel's.
_SPIN = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
_SPIN_SET_BY_USER = ("OMP_WAIT_POLICY", *_SPIN)


def usable_cores() -> int:
    """By its affinity mask, and the CPU quota of its container (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let OpenMP's threads spin only for a short time, unless the user says how they wait; before torch is loaded.

    By default they spin for milliseconds at every barrier, while the thread that they wait for may need their core: two
    busy processes beside training on two cores then take 80% of its speed (benchmarks/LOG.md).
    """
    if not any(name in environment for name in _SPIN_SET_BY_USER):
        environment.update(_SPIN)
