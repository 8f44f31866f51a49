"""A session's batches through buffers that are made once, in few shapes, so that a GPU's memory does not creep up.

ONNX Runtime's arena keeps what each new shape asked for; so lengths are rounded up to multiples of 8 and more, numbers
of pairs to sixteenths of a power of two, and the places added are taken off the result again.

Left out: pinned host memory (the copy of a full batch is 0.8 MB, some 0.1 of its 10 ms), and CUDA graphs (they save
the launching of kernels, which runs ahead of a GPU that full batches keep busy, and hold memory for each shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bertnli_export.devices import Device
from bertnli_export.interface import INPUTS, OUTPUT

if TYPE_CHECKING:
    import onnxruntime

_MASK = INPUTS.index("attention_mask")


class BoundSession:
    """Runs padded batches on `device` (a GPU; the CPU in tests) over bound buffers."""

    def __init__(self, session: onnxruntime.InferenceSession, device: Device, labels: int):
        self._session, self._device, self._labels = session, device, labels
        self._binding = session.io_binding()
        self._tokens = self._pairs = 0  # what the buffers hold

    def run(self, inputs: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """`INPUTS`, each `[pairs, length]`, to `[pairs, labels]`."""
        pairs, length = inputs[0].shape
        shape = bucket(pairs, length)
        self._make_room(*shape)
        size = shape[0] * shape[1]
        for number, (name, values) in enumerate(zip(INPUTS, inputs, strict=True)):
            place = self._host[number, :size].reshape(shape)
            place[:pairs, :length] = values
            place[:pairs, length:] = 0
            place[pairs:] = 0
            if number == _MASK:
                place[pairs:, 0] = 1  # a pair of no token at all would divide by nothing
            address = self._values.data_ptr() + number * self._host.strides[0]
            self._binding.bind_input(name, self._device.kind, self._device.device_id, np.int64, shape, address)
        self._values.update_inplace(self._host)
        out = self._out[: shape[0]]
        self._binding.bind_output(OUTPUT, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return out[:pairs].copy()

    def _make_room(self, pairs: int, length: int) -> None:
        """Larger buffers, where a batch needs them."""
        import onnxruntime as ort

        if pairs * length > self._tokens:
            self._tokens = -(-pairs * length // 32) * 32  # each input begins at a multiple of 256 bytes
            self._host = np.zeros((len(INPUTS), self._tokens), np.int64)
            self._values = ort.OrtValue.ortvalue_from_numpy(
                self._host.copy(), self._device.kind, self._device.device_id
            )
        if pairs > self._pairs:
            self._pairs = pairs
            self._out = np.empty((pairs, self._labels), np.float32)


def bucket(pairs: int, length: int) -> tuple[int, int]:
    """The shape that a batch is filled up to."""
    return _rounded(pairs, 1), _rounded(length, 8)


def _rounded(number: int, least: int) -> int:
    step = max(least, (1 << (number - 1).bit_length()) // 16)
    return -(-number // step) * step
