"""A sum over all ranks that a GPU is still computing: the host launches more work before it reads it."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class PendingSum:
    """The values of `total`, which a GPU computes after the work that was launched before."""

    def __init__(self, total: Tensor):
        self._copied = None
        if total.device.type == "cuda":
            # Into pinned memory, or the copy would wait for the device.
            self._total = torch.empty(total.shape, dtype=total.dtype, pin_memory=True).copy_(total, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._total = total
        self._ready_at = time.perf_counter()

    def read(self) -> tuple[list[float], float]:
        """The values, and the time (`time.perf_counter`) at which they were there. Waits for the device until then."""
        if self._copied is not None:
            self._copied.synchronize()
            self._ready_at = time.perf_counter()
            self._copied = None
        return self._total.tolist(), self._ready_at
