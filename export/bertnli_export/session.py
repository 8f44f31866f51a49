"""An ONNX Runtime session on the device that it is given, or an error that says why it cannot run there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.cores import usable_cores
from bertnli.common.errors import InputError, RunError, first_line
from bertnli_export.binding import BoundSession
from bertnli_export.devices import Device, no_cuda, preload_cuda
from bertnli_export.graph_file import check_graph
from bertnli_export.interface import INPUTS, OUTPUT, SATURATION_CHECK
from bertnli_export.runtime import check_runtime

if TYPE_CHECKING:
    import onnxruntime

_CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 products keep 10 bits of the mantissa: fp32 would not be fp32
    "arena_extend_strategy": "kSameAsRequested",  # not the next power of two: shapes are few and come again
}
EXACT_INT8 = ("session.x64quantprecision", "1")
"""int8 products by a kernel that is exact on every CPU; one with VNNI has a faster kernel that is exact too."""


class DeviceError(RunError):
    """A batch could not be run. The fault may be the device's, so another one may be able to."""


class Session:
    """A graph with its weights, loaded and ready on one device.

    On the CPU one thread runs a batch, and as many batches run at once as there are threads. If all threads shared a
    batch, they would wait for each other at every operator. On two idle cores that is no slower, but on busy ones it
    takes 1.45 times the CPU time.

    Attributes: `device`; `description`, the device as a user reads it; `outputs`, the number of labels; `metadata`, the
    graph's own.
    """

    def __init__(self, model: Path, device: Device, *, threads: int | None = None):
        """`threads` of the CPU, by default one for each core that the process may use.

        Raises InputError if the device cannot be used, if `model` is not the graph of a bundle, or if it fails on a
        first small batch.
        """
        self._model = model
        self.device, threads = device, threads or usable_cores()
        on_cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        self.description = on_cpu if device.kind == "cpu" else f"CUDA GPU {device.device_id}"
        self._session = _open_session(model, device)
        self._inputs, self.outputs = _check_interface(self._session, model)
        bound = device.kind == "cuda"
        self._bound = BoundSession(self._session, device, self.outputs, self._inputs) if bound else None
        self._threads = ThreadPoolExecutor(threads if self._bound is None else 1)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._refuse_unchecked_int8()
        if np.isnan(self._try_out()).any() and device.kind == "cpu":
            del self._session  # its memory, before another one is loaded
            self._session = _open_session(model, device, EXACT_INT8)
            self.description += ", slower int8 (no VNNI)"
            self._try_out()

    def submit(self, inputs: Sequence[NDArray[np.int64]]) -> Future[NDArray[np.float32]]:
        """`logits` as a future, so that the device goes from one batch to the next without waiting for the caller."""
        return self._threads.submit(self.logits, *inputs)

    def close(self) -> None:
        """Cancel what was submitted and has not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One padded batch, each input `[batch, length]`, to `[batch, labels]`. A graph may lack token types.

        Raises DeviceError, and InputError if the graph gives another shape.
        """
        values = (input_ids, attention_mask, token_type_ids)
        try:
            if self._bound is not None:
                return self._bound.run(values)
            result: NDArray[np.float32]
            (result,) = self._session.run([OUTPUT], dict(zip(self._inputs, values, strict=False)))
        except Exception as error:  # ONNX Runtime's errors have no common class
            shape = "{} x {} tokens".format(*input_ids.shape)
            raise DeviceError(
                f"ONNX Runtime failed on a batch of {shape} ({self.description}): {first_line(error)}"
            ) from error
        expected = (len(input_ids), self.outputs)
        if result.shape != expected:  # numpy would take one row for the scores of all
            raise InputError(
                f"{self._model}: gives scores of another shape than its batch",
                found=str(result.shape),
                expected=str(expected),
                do="do not use it; export the model again",
            )
        return result

    def _refuse_unchecked_int8(self) -> None:
        """Raise InputError for an int8 graph that does not check its products (see graphs/saturation.py)."""
        if self.metadata.get("bertnli.precision") == "int8" and f"bertnli.{SATURATION_CHECK}" not in self.metadata:
            raise InputError(
                f"{self._model}: an int8 graph of an earlier version, whose scores are wrong on some CPUs",
                do="export it again",
            )

    def _try_out(self) -> NDArray[np.float32]:
        """The logits of a first small batch. What fails on a CPU is the graph; on a GPU it may be the device."""
        ids = np.zeros((2, 5), np.int64)
        try:
            return self.logits(ids, np.ones_like(ids), ids)
        except DeviceError as error:
            if self.device.kind == "cuda":
                raise
            raise InputError(
                f"{self._model}: cannot be run: {error}", do="do not use it; export the model again"
            ) from error


def _open_session(model: Path, device: Device, *entries: tuple[str, str]) -> onnxruntime.InferenceSession:
    """`entries`: further keys and values for the session's configuration."""
    import onnxruntime as ort

    check_runtime()
    check_graph(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # No file is below a device: a second barrier behind `check_graph`. Before 1.31 it is one for models in memory only.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    for key, value in entries:
        options.add_session_config_entry(key, value)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.kind == "cuda":
        preload_cuda(ort)
        ort.set_default_logger_severity(3)  # errors: 1.31 warns of a plugin that is not there, for each session
        providers = [("CUDAExecutionProvider", {"device_id": str(device.device_id)} | _CUDA_OPTIONS), *providers]
    try:
        session = ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        if device.kind == "cuda":
            raise no_cuda(first_line(error)) from error
        raise InputError(f"{model}: ONNX Runtime cannot load it: {first_line(error)}", do="export it again") from error
    if device.kind == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise no_cuda("ONNX Runtime fell back to the CPU when CUDA did not start")
    session.disable_fallback()  # ONNX Runtime would also fall back after a run that fails
    return session


def _check_interface(session: onnxruntime.InferenceSession, model: Path) -> tuple[tuple[str, ...], int]:
    """The inputs and the number of labels of a graph that has the inputs and the output of a bundle's."""
    arguments = [*session.get_inputs(), *session.get_outputs()]
    found = {argument.name: (argument.type, len(argument.shape)) for argument in arguments}
    inputs = INPUTS if INPUTS[-1] in found else INPUTS[:-1]
    expected = dict.fromkeys(inputs, ("tensor(int64)", 2)) | {OUTPUT: ("tensor(float)", 2)}
    if found != expected:
        raise InputError(
            f"{model}: other inputs or outputs than a bundle's graph",
            found=", ".join(f"{name} {kind} of {axes} axes" for name, (kind, axes) in found.items()),
            expected=f"{', '.join(INPUTS)} int64 and {OUTPUT} float32, of 2 axes",
        )
    labels = session.get_outputs()[0].shape[1]
    if not isinstance(labels, int):
        raise InputError(f"{model}: output {OUTPUT}", found=f"a second axis {labels!r}", expected="a number of labels")
    return inputs, labels
