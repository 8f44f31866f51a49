"""Which device is chosen, and what stands in the way of CUDA. What GPUs there are is pretended."""

from __future__ import annotations

import ctypes
from pathlib import Path

import onnxruntime
import pytest
from bertnli_export import devices
from bertnli_export.devices import CPU, Device, choose_device, choose_devices

from bertnli.common.errors import InputError
from bertnli.common.gpus import Gpus


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: Gpus, providers: tuple[str, ...] = ("CUDA", "CPU")) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: gpus)
    names = [f"{name}ExecutionProvider" for name in providers]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


def test_cuda_without_a_gpu_is_refused(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(0))
    with pytest.raises(InputError, match=r"--device cuda; found no NVIDIA GPU.*--device cpu"):
        choose_device("cuda")


def test_a_gpu_is_taken(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1, None, 99))
    monkeypatch.setattr(devices, "_provider_problem", lambda: None)
    assert choose_device("auto") == choose_device("cuda") == Device("cuda")
    assert choose_device("cpu") == CPU == Device("cpu")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="--device; found 'gpu'; expected auto or cpu or cuda"):
        choose_device("gpu")


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_both_wheels_installed_is_named(monkeypatch, asked) -> None:
    pretend(monkeypatch, Gpus(1), providers=("CPU",))
    monkeypatch.setattr(devices, "installed", lambda packages: dict.fromkeys(packages, "1"))
    with pytest.raises(InputError, match=r"both installed.*pip uninstall -y onnxruntime onnxruntime-gpu.*--device cpu"):
        choose_device(asked)


def test_a_wheel_without_cuda_is_named(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1), providers=("Azure", "CPU"))
    monkeypatch.setattr(devices, "installed", lambda packages: {"onnxruntime": "1"})
    with pytest.raises(InputError, match=r"onnxruntime [\d.]+ was built without CUDA.*pip install onnxruntime-gpu"):
        choose_device("auto")


def test_a_driver_that_is_too_old_is_named(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1, None, 11))
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    with pytest.raises(
        InputError, match=r"runs CUDA 11 at most, onnxruntime-gpu [\d.]+ needs CUDA 13; update the driver"
    ):
        choose_device("auto")


def test_a_missing_library_is_named(monkeypatch, tmp_path) -> None:
    pretend(monkeypatch, Gpus(1, None, 99))
    monkeypatch.setattr(devices, "preload_cuda", lambda _: None)
    opened = []

    def load(name: str, *_: object) -> object:
        opened.append(Path(name).name)
        if name.endswith("_cuda.so"):
            raise OSError("libcublasLt.so.13: cannot open shared object file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(InputError, match=r"libcublasLt\.so\.13: cannot open.*pip install 'bertnli\[gpu\]'"):
        choose_device("auto")
    assert opened == ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"]


def test_the_libraries_that_are_tried_are_those_of_the_installed_wheel() -> None:
    folder = Path(onnxruntime.__file__).parent / "capi"
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert {"libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"} <= {
            path.name for path in folder.iterdir()
        }


def test_all_gpus_are_taken_or_those_that_are_named(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(3, None, 99))
    monkeypatch.setattr(devices, "_provider_problem", lambda: None)
    assert choose_devices("auto") == choose_devices("cuda") == [Device("cuda", number) for number in range(3)]
    assert choose_devices("auto", "2,0") == [Device("cuda", 2), Device("cuda", 0)]
    assert choose_devices("cuda:1") == [Device("cuda", 1)]
    assert choose_devices("cpu", workers=2) == [CPU, CPU]
    for gpus in ("", "0,0", "0,", "a", "-1"):
        with pytest.raises(InputError, match=r"--devices; found .*; expected numbers of GPUs, such as 0,1"):
            choose_devices("auto", gpus)
    with pytest.raises(InputError, match="GPU 3; found 3 here; expected 0 to 2"):
        choose_devices("auto", "0,3")
    with pytest.raises(InputError, match="--devices; found 0 with --device cuda:1"):
        choose_devices("cuda:1", "0")
    with pytest.raises(InputError, match="--workers; found 2, and GPUs"):
        choose_devices("auto", workers=2)
    with pytest.raises(InputError, match="--workers; found 0"):
        choose_devices("cpu", workers=0)


def test_without_gpus_there_are_none_to_choose_from(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(0))
    assert choose_devices("auto") == [CPU]
    with pytest.raises(InputError, match="--devices; found 0,1, and the CPU as the device"):
        choose_devices("auto", "0,1")
    for wrong in ("cpu:1", "cuda:x", "auto:0"):
        with pytest.raises(InputError, match=f"--device; found '{wrong}'"):
            choose_device(wrong)


def test_a_problem_of_the_driver_is_an_error_where_there_is_a_gpu_and_else_not_looked_at(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1, "the driver does not start"))
    with pytest.raises(InputError, match=r"found the driver does not start; or choose the CPU with --device cpu"):
        choose_device("auto")
    pretend(monkeypatch, Gpus(0, "the driver's library cannot be loaded"))
    assert choose_device("auto") == CPU
