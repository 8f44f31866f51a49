"""A session's batches through buffers that are made once, in few shapes, so that a GPU's memory does not grow.

ONNX Runtime's memory arena keeps what each new shape asked for. Therefore batches are padded to buckets: lengths to a
multiple of 8 or more, numbers of pairs to sixteenths of a power of two. What was added is cut off the result.

Not used: pinned host memory (copying a full batch of 0.8 MB takes about 0.1 of its 10 ms), and CUDA graphs (they save
kernel launches, which on a GPU that full batches keep busy cost nothing, and hold memory for each shape).
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

    def __init__(
        self, session: onnxruntime.InferenceSession, device: Device, labels: int, inputs: Sequence[str] = INPUTS
    ):
        """inputs: those that the graph has, the first of `INPUTS`."""
        self._session, self._device, self._labels, self._inputs = session, device, labels, inputs
        self._binding = session.io_binding()
        self._tokens = self._pairs = 0  # the capacity of the buffers

    def run(self, inputs: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """`INPUTS`, each `[pairs, length]`, to `[pairs, labels]`."""
        pairs, length = inputs[0].shape
        shape = bucket(pairs, length)
        self._grow(*shape)
        size = shape[0] * shape[1]
        for number, (name, values) in enumerate(zip(self._inputs, inputs, strict=False)):
            padded = self._host[number, :size].reshape(shape)
            padded[:pairs, :length] = values
            padded[:pairs, length:] = 0
            padded[pairs:] = 0
            if number == _MASK:
                padded[pairs:, 0] = 1  # softmax over no token would divide by zero
            address = self._values.data_ptr() + number * self._host.strides[0]
            self._binding.bind_input(name, self._device.kind, self._device.device_id, np.int64, shape, address)
        self._values.update_inplace(self._host)
        out = self._out[: shape[0]]
        self._binding.bind_output(OUTPUT, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return out[:pairs].copy()

    def _grow(self, pairs: int, length: int) -> None:
        """Make larger buffers if the batch needs them."""
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
    """The shape that a batch of `pairs` x `length` is padded to."""
    return _rounded_up(pairs, 1), _rounded_up(length, 8)


def _rounded_up(number: int, smallest_step: int) -> int:
    step = max(smallest_step, (1 << (number - 1).bit_length()) // 16)
    return -(-number // step) * step
