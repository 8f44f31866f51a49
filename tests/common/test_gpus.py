"""NVIDIA GPUs, counted by a stand-in for their driver, or by the files that its kernel module makes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from bertnli.common.gpus import Gpus, find_gpus


class _Driver(SimpleNamespace):
    """libcuda, as far as it is asked."""

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = self.count  # type: ignore[attr-defined]
        return 0

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802
        version._obj.value = 13010  # type: ignore[attr-defined]
        return 0


def device_files(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, _: (self / name for name in names))


def test_gpus_are_counted_by_the_driver(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver(status=0, count=2))
    assert find_gpus() == Gpus(2, None, 13)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver(status=100, count=0))
    assert find_gpus() == Gpus(0)


def test_a_broken_driver_is_a_problem_where_there_is_a_gpu(monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver(status=803, count=0))
    device_files(monkeypatch, "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
    assert find_gpus().count == 2
    assert "does not start (CUDA error 803); see what nvidia-smi says" in (find_gpus().problem or "")
    device_files(monkeypatch)  # a container image with the library, on a host without a GPU
    assert find_gpus().count == 0


def test_a_gpu_without_its_library(monkeypatch) -> None:
    def missing(_: str) -> object:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    device_files(monkeypatch, "nvidia0")
    assert find_gpus().count == 1
    assert "libcuda.so.1: cannot open" in (find_gpus().problem or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert find_gpus().count == 0
