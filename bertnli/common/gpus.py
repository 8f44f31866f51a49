"""Finds the NVIDIA GPUs of this machine through the CUDA driver."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpus:
    count: int  # NVIDIA GPUs that this process may use (CUDA_VISIBLE_DEVICES limits them)
    problem: str | None = None  # what is wrong with the driver, and how to fix it
    driver: int = 0  # newest CUDA major version that the driver supports; 0: not known


def find_gpus() -> Gpus:
    """Ask the CUDA driver. If it does not work, count the device files that its kernel module creates."""
    files = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    present = 0 if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1") else len(files)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return Gpus(present, f"the driver's library cannot be loaded ({error}); install the NVIDIA driver's libraries")
    count, version = ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == 100:  # CUDA_ERROR_NO_DEVICE
        return Gpus(0)
    if status:
        return Gpus(present, f"the NVIDIA driver does not start (CUDA error {status}); see what nvidia-smi says")
    driver.cuDriverGetVersion(ctypes.byref(version))
    return Gpus(count.value, None, version.value // 1000)
