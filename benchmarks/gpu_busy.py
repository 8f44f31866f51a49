"""The share of the time in which the GPUs of this machine were at work, as their driver counts it."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_COMMAND = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]


@contextmanager
def busy_share() -> Iterator[dict[str, float]]:
    """Yields a dict that holds `gpu_busy` (0 to 1, mean over samples and GPUs) after the block; empty without a GPU."""
    found: dict[str, float] = {}
    if not shutil.which(_COMMAND[0]):
        yield found
        return
    with subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sampling:
        assert sampling.stdout is not None
        sampling.stdout.readline()  # it takes a moment to start; what it says of that moment is not the block's
        try:
            yield found
        finally:
            sampling.terminate()
            samples = [float(line) for line in sampling.stdout if line.strip().isdigit()]
            if samples:
                found["gpu_busy"] = round(statistics.mean(samples) / 100, 3)
