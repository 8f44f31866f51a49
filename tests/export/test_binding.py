"""Bound buffers: few shapes, no trace of padding, for any sequence of batches."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bertnli_export import binding, session
from bertnli_export.binding import BoundSession, bucket
from bertnli_export.devices import CPU, Device
from bertnli_export.interface import INPUTS, OUTPUT
from bertnli_export.session import Session

from tests.support import tiny

MODEL = "model.onnx"


def batch(pairs: int, length: int, seed: int = 0) -> list[np.ndarray]:
    """Pairs of random lengths, the first of them `length` long."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, length + 1, pairs)
    lengths[0] = length
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, draw.integers(5, 60, (pairs, length)), 0)
    return [ids.astype(np.int64), mask.astype(np.int64), (mask & (np.arange(length) > 2)).astype(np.int64)]


class Recorder:
    """ONNX Runtime's session and binding, as far as they are used: records shapes and the values at the addresses."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.seen: list[dict[str, np.ndarray]] = []

    def io_binding(self) -> Recorder:
        self._bound: dict[str, np.ndarray] = {}
        return self

    def bind_input(self, name: str, device: str, index: int, kind: Any, shape: tuple[int, ...], address: int) -> None:
        assert (device, index, kind) == ("cpu", 0, np.int64)
        self._bound[name] = view(shape, address, np.int64)

    def bind_output(self, name: str, device: str, index: int, kind: Any, shape: tuple[int, ...], address: int) -> None:
        assert (name, device, kind) == (OUTPUT, "cpu", np.float32)  # results come to the host, wherever they are made
        self._bound[name] = view(shape, address, np.float32)

    def run_with_iobinding(self, bound: Recorder) -> None:
        inputs = {name: self._bound[name].copy() for name in INPUTS}
        assert len({each.shape for each in inputs.values()}) == 1
        self.seen.append(inputs)
        self.shapes.append(inputs["input_ids"].shape)
        self._bound[OUTPUT][:] = inputs["input_ids"].sum(axis=1, keepdims=True)


def view(shape: tuple[int, ...], address: int, kind: type) -> np.ndarray:
    import ctypes

    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)


def test_a_batch_is_filled_up_to_its_bucket_and_the_filling_taken_off() -> None:
    recorder = Recorder()
    bound: Any = BoundSession(recorder, CPU, 3)
    for seed, (pairs, length) in enumerate([(37, 21), (1, 3), (200, 60), (5, 128), (37, 21)]):
        inputs = batch(pairs, length, seed)
        found = bound.run(inputs)
        assert found.shape == (pairs, 3)
        np.testing.assert_array_equal(found[:, 0], inputs[0].sum(axis=1))
        for name, given in zip(INPUTS, inputs, strict=True):
            seen = recorder.seen[-1][name]
            assert seen.shape == bucket(pairs, length)
            np.testing.assert_array_equal(seen[:pairs, :length], given)
            assert not seen[:pairs, length:].any()
            assert not seen[pairs:, 1:].any()
        assert (recorder.seen[-1]["attention_mask"].sum(axis=1) > 0).all()  # softmax over no token would divide by zero


def test_results_do_not_change_when_the_next_batch_is_run() -> None:
    bound: Any = BoundSession(Recorder(), CPU, 3)
    first = bound.run(batch(4, 9, 0))
    kept = first.copy()
    bound.run(batch(4, 9, 1))
    np.testing.assert_array_equal(first, kept)


def test_shapes_are_few_and_never_much_larger() -> None:
    draw = random.Random(0)
    shapes = set()
    for _ in range(20_000):
        pairs, length = draw.randint(1, 1024), draw.randint(3, 512)
        large = bucket(pairs, length)
        shapes.add(large)
        assert large[0] >= pairs and large[1] >= length and large[1] % 8 == 0
        assert large[0] <= max(pairs + 1, pairs * 1.125) and large[1] <= max(length + 7, length * 1.125)
        assert bucket(*large) == large
    assert len({pairs for pairs, _ in shapes}) <= 72
    assert len({length for _, length in shapes}) <= 32


def test_buffers_are_made_once_for_the_largest_batch(monkeypatch) -> None:
    made = []
    real = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(
        onnxruntime.OrtValue,
        "ortvalue_from_numpy",
        lambda array, *where: made.append(array.shape) or real(array, *where),
    )
    bound: Any = BoundSession(Recorder(), CPU, 3)
    for pairs, length in [(64, 64), (1, 3), (64, 63), (30, 128), (64, 64)]:
        bound.run(batch(pairs, length))
    assert made == [(3, 64 * 64)]


def test_real_bindings_give_what_a_plain_run_gives() -> None:
    plain = Session(tiny.bundle() / MODEL, CPU)
    bound = BoundSession(plain._session, CPU, 3)
    for seed, (pairs, length) in enumerate([(1, 3), (33, 20), (5, 48), (64, 11), (2, 47), (33, 20)]):
        inputs = batch(pairs, length, seed)
        np.testing.assert_allclose(bound.run(inputs), plain.logits(*inputs), atol=1e-5)


def test_a_gpu_session_is_bound_to_its_gpu_with_options_that_keep_fp32(monkeypatch) -> None:
    monkeypatch.setattr(session, "preload_cuda", lambda _: None)
    real, asked, where = onnxruntime.InferenceSession, [], []

    def make(path: str, options: object, providers: list[Any]) -> Any:
        asked.append(providers)
        made = real(path, options, providers=["CPUExecutionProvider"])
        made.get_providers = lambda: [providers[0][0], "CPUExecutionProvider"]
        return made

    class OnTheCpu(BoundSession):
        def __init__(self, opened: Any, device: Device, labels: int, inputs: tuple[str, ...]):
            where.append((device, labels))
            super().__init__(opened, CPU, labels)

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(session, "BoundSession", OnTheCpu)
    opened = Session(tiny.bundle() / MODEL, Device("cuda", 1))
    [[(provider, options), rest]] = asked
    assert (provider, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": "1", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert (opened.description, where) == ("CUDA GPU 1", [(Device("cuda", 1), 3)])

    inputs = batch(7, 30)
    expected = Session(tiny.bundle() / MODEL, CPU).logits(*inputs)
    with pytest.MonkeyPatch.context() as context:
        shapes = []
        run = OnTheCpu.run
        context.setattr(OnTheCpu, "run", lambda self, given: shapes.append(given[0].shape) or run(self, given))
        np.testing.assert_allclose(opened.submit(inputs).result(), expected, atol=1e-5)
        assert shapes == [(7, 30)]


def test_the_names_bound_are_those_of_the_graph() -> None:
    assert INPUTS[binding._MASK] == "attention_mask"
