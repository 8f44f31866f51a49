"""A session runs on the device that it was given, or says why it cannot."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bertnli_export.devices import CPU, Device
from bertnli_export.graphs.graph import add_metadata
from bertnli_export.interface import SATURATION_CHECK
from bertnli_export.session import EXACT_INT8, Session

from bertnli.common.cores import usable_cores
from bertnli.common.errors import InputError, RunError
from tests.support import tiny
from tests.support.bundles import without_metadata

MODEL = "model.onnx"


def batch(*rows: list[int]) -> list[np.ndarray]:
    ids = np.array(rows, np.int64)
    return [ids, np.ones_like(ids), np.zeros_like(ids)]


def test_a_session_on_the_cpu_says_so() -> None:
    opened = Session(tiny.bundle() / MODEL, CPU)
    assert opened.device == CPU
    assert opened.description.startswith(f"CPU, {usable_cores()} thread")


def test_a_session_that_fell_back_to_the_cpu_is_no_gpu_session(monkeypatch) -> None:
    real = onnxruntime.InferenceSession

    def fall_back(path: str, options: object, providers: list[object]) -> object:
        assert providers[0][0] == "CUDAExecutionProvider"
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(InputError, match=r"fell back to the CPU.*--device cpu"):
        Session(tiny.bundle() / MODEL, Device("cuda"))


def test_a_cuda_session_that_does_not_start_is_an_error_with_its_reason(monkeypatch) -> None:

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("CUDA failure 2: out of memory\nat line 5")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(InputError, match="found CUDA failure 2: out of memory; or choose the CPU"):
        Session(tiny.bundle() / MODEL, Device("cuda"))


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


def test_a_closed_session_drops_what_has_not_started(monkeypatch) -> None:
    opened = Session(tiny.bundle() / MODEL, CPU, threads=1)
    go, started = threading.Event(), threading.Event()
    monkeypatch.setattr(opened, "logits", lambda *_: started.set() or go.wait(60))
    first, second = opened.submit([]), opened.submit([])
    started.wait(60)
    opened.close()
    go.set()
    assert first.result() is True
    assert second.cancelled()


def test_a_file_that_is_no_graph_is_refused(tmp_path) -> None:
    for content in (b"", b"junk", b"\x0b", b"\x08" + b"\xff" * 20):
        (tmp_path / MODEL).write_bytes(content)
        with pytest.raises(InputError, match=r"model\.onnx: not an ONNX graph; .*export it again"):
            Session(tmp_path / MODEL, CPU)
    (tmp_path / MODEL).write_bytes(b"\x08\x0a")  # a version, and no graph
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


def open_on_a_cpu(monkeypatch, model: Path, *, saturates: bool) -> tuple[list[bool], str]:
    """Whether each of the sessions that one `Session` opened has exact products, on such a CPU; its description."""
    real, exact = onnxruntime.InferenceSession, []

    class OnThatCpu(real):
        def __init__(self, path: str, options: onnxruntime.SessionOptions, **more: object):
            super().__init__(path, options, **more)
            try:
                self.exact = options.get_session_config_entry(EXACT_INT8[0]) == "1"
            except RuntimeError:  # it was not set
                self.exact = False
            exact.append(self.exact)

        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            (logits,) = super().run(names, inputs)
            return [logits * np.nan if saturates and not self.exact else logits]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnThatCpu)
    opened = Session(model, CPU, threads=2)
    assert np.isfinite(opened.logits(*batch([2, 7, 3]))).all()
    return exact, opened.description


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    """A graph that says it is in int8 and has the check."""
    graph = without_metadata(tiny.bundle() / MODEL)
    add_metadata(graph, {"precision": "int8", SATURATION_CHECK: "in the graph"})
    onnx.save_model(graph, tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


def test_int8_products_are_exact_where_the_graph_shows_that_they_saturate(int8, monkeypatch) -> None:
    exact, description = open_on_a_cpu(monkeypatch, int8, saturates=True)
    assert exact == [False, True]
    assert description == "CPU, 2 threads, slower int8 (no VNNI)"


def test_the_faster_products_are_kept_where_they_are_exact(int8, monkeypatch) -> None:
    for model in (int8, tiny.bundle() / MODEL):  # and fp32
        assert open_on_a_cpu(monkeypatch, model, saturates=False) == ([False], "CPU, 2 threads")


def test_an_int8_graph_without_the_check_is_refused(tmp_path) -> None:
    graph = without_metadata(tiny.bundle() / MODEL)
    add_metadata(graph, {"precision": "int8"})
    onnx.save_model(graph, tmp_path / MODEL)
    with pytest.raises(InputError, match=r"model\.onnx: an int8 graph of an earlier version.*; export it again"):
        Session(tmp_path / MODEL, CPU)
