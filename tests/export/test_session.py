"""The session runs where it was told to, or says why not. The machine's own GPUs, if any, are made away with."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from bertnli_export import devices
from bertnli_export.devices import CPU, Device, choose_device, choose_devices
from bertnli_export.session import Session

from bertnli.common.cores import usable_cores
from bertnli.common.errors import InputError, RunError
from bertnli.common.gpus import Gpus, find_gpus
from tests.support import tiny

MODEL = "model.onnx"


def batch(*rows: list[int]) -> list[np.ndarray]:
    ids = np.array(rows, np.int64)
    return [ids, np.ones_like(ids), np.zeros_like(ids)]


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: Gpus, providers: tuple[str, ...] = ("CUDA", "CPU")) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: gpus)
    names = [f"{name}ExecutionProvider" for name in providers]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


# --- which device


def test_without_a_gpu_auto_is_the_cpu_and_says_so(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(0))
    opened = Session(tiny.bundle() / MODEL, choose_device("auto"))
    assert opened.device == CPU
    assert opened.description.startswith(f"CPU, {usable_cores()} thread")


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


def test_a_session_that_fell_back_to_the_cpu_is_no_gpu_session(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1))
    monkeypatch.setattr(devices, "_provider_problem", lambda: None)
    real = onnxruntime.InferenceSession

    def fall_back(path: str, options: object, providers: list[object]) -> object:
        assert providers[0][0] == "CUDAExecutionProvider"
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(InputError, match=r"fell back to the CPU.*--device cpu"):
        Session(tiny.bundle() / MODEL, choose_device("auto"))


def test_a_cuda_session_that_does_not_start_is_an_error_with_its_reason(monkeypatch) -> None:
    pretend(monkeypatch, Gpus(1))
    monkeypatch.setattr(devices, "_provider_problem", lambda: None)

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("CUDA failure 2: out of memory\nat line 5")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(InputError, match="found CUDA failure 2: out of memory; or choose the CPU"):
        Session(tiny.bundle() / MODEL, Device("cuda"))


# --- what the driver says


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
    assert "CUDA error 803" in (find_gpus().problem or "")
    with pytest.raises(InputError, match=r"does not start .CUDA error 803.; see what nvidia-smi says"):
        choose_device("auto")
    device_files(monkeypatch)  # a container image with the library, on a host without a GPU
    assert choose_device("auto") == CPU


def test_a_gpu_without_its_library(monkeypatch) -> None:
    def missing(_: str) -> object:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    device_files(monkeypatch, "nvidia0")
    with pytest.raises(InputError, match=r"libcuda\.so\.1: cannot open.*--device cpu"):
        choose_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert choose_device("auto") == CPU


# --- the CPU


def test_threads_are_the_cores_that_the_process_may_use(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: "max 100000\n")
    assert usable_cores() == 3
    monkeypatch.setattr(Path, "read_text", lambda _: "150000 100000\n")  # one and a half cores
    assert usable_cores() == 2
    opened = Session(tiny.bundle() / MODEL, CPU)
    assert opened.description == "CPU, 2 threads"
    assert Session(tiny.bundle() / MODEL, CPU, threads=1).description == "CPU, 1 thread"


def test_so_many_batches_run_at_once_as_there_are_threads_each_on_one(monkeypatch) -> None:
    options, running, most = [], [], []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, how, **more: options.append(how) or real(path, how, **more)
    )
    opened = Session(tiny.bundle() / MODEL, CPU, threads=3)
    assert options[0].intra_op_num_threads == options[0].inter_op_num_threads == 1
    everybody, logits = threading.Barrier(3, timeout=60), opened.logits

    def meet(*inputs: np.ndarray) -> np.ndarray:
        running.append(1)
        most.append(len(running))
        everybody.wait()  # for ever, if they came one after another
        result = logits(*inputs)
        running.pop()
        everybody.wait()
        return result

    monkeypatch.setattr(opened, "logits", meet)
    batches = [batch([2, 7 + at, 3]) for at in range(6)]
    found = [each.result() for each in [opened.submit(inputs) for inputs in batches]]
    assert max(most) == 3
    for one, inputs in zip(found, batches, strict=True):
        np.testing.assert_array_equal(one, logits(*inputs))


def test_a_closed_session_drops_what_has_not_begun(monkeypatch) -> None:
    opened = Session(tiny.bundle() / MODEL, CPU, threads=1)
    go, started = threading.Event(), threading.Event()
    monkeypatch.setattr(opened, "logits", lambda *_: started.set() or go.wait(60))
    first, second = opened.submit([]), opened.submit([])
    started.wait(60)
    opened.close()
    go.set()
    assert first.result() is True
    assert second.cancelled()


# --- several devices


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


# --- graphs


def test_a_file_that_is_no_graph_is_refused(tmp_path) -> None:
    (tmp_path / MODEL).write_bytes(b"junk")
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime cannot load it: .*export it again"):
        Session(tmp_path / MODEL, CPU)


def test_a_graph_with_other_inputs_is_refused(tmp_path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])
    out = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    node = onnx.helper.make_node("Identity", ["x"], ["logits"])
    graph = onnx.helper.make_graph([node], "other", [value], [out])
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]), tmp_path / MODEL)
    with pytest.raises(
        InputError, match=r"other inputs or outputs.*found x tensor\(float\) of 2 axes.*expected input_ids"
    ):
        Session(tmp_path / MODEL, CPU)


def test_a_run_that_fails_is_one_message() -> None:
    opened = Session(tiny.bundle() / MODEL, CPU)
    assert opened.outputs == 3
    assert opened.logits(*batch([2, 7, 3], [2, 3, 3])).shape == (2, 3)
    with pytest.raises(
        RunError, match=r"ONNX Runtime failed on a batch of 1 x 3 tokens .CPU.*indices element out of data"
    ):
        opened.logits(*batch([2, 70_000, 3]))
