"""An ONNX Runtime session that runs where it was told to, or says why it cannot.

ONNX Runtime itself falls back to the CPU when CUDA will not start, and only logs it. Here a GPU that is present is
used, or is an error that names the cause and the mend; the CPU is chosen by name.

From top to bottom: the session, which device, what stands in CUDA's way.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.cores import usable_cores
from bertnli.common.errors import InputError, RunError
from bertnli_export.binding import BoundSession
from bertnli_export.interface import INPUTS, OUTPUT

if TYPE_CHECKING:
    import onnxruntime

DEVICES = ("auto", "cpu", "cuda")  # and one of several GPUs as cuda:1
_ON_THE_CPU = "or choose the CPU with --device cpu"
_CUDA = {
    "use_tf32": "0",  # its products have 10 bits of mantissa: fp32 would not be fp32
    "arena_extend_strategy": "kSameAsRequested",  # not the next power of two: few shapes come, over and over
}


class DeviceError(RunError):
    """A batch could not be run. The fault may be the device's, so that another one may be able to."""


class Session:
    """A graph with its weights, loaded and ready on one device.

    On the CPU a batch is one thread's work, and as many batches as there are threads run at once. A batch over all
    threads has them wait for each other at every operator: on two cores that is no slower where nobody else uses them,
    and takes 1.45 times the CPU time where somebody does.

    Attributes: `device`, `cpu` or `cuda`; `description`, the same for a person; `outputs`, the number of labels.
    """

    def __init__(self, model: Path, device: str = "auto", *, threads: int | None = None):
        """`threads`: left out, one for each core that the process may use.

        Raises InputError if the device cannot be used or `model` is not a graph of ours.
        """
        self.device, _, number = choose_device(device).partition(":")
        index, threads = int(number or 0), threads or usable_cores()
        on_cpu = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        self.description = on_cpu if self.device == "cpu" else f"CUDA GPU {index}"
        self._session = _start(model, self.device, index)
        self.outputs = _check_interface(self._session, model)
        self._bound = BoundSession(self._session, "cuda", index, self.outputs) if self.device == "cuda" else None
        self._threads = ThreadPoolExecutor(threads if self._bound is None else 1)

    def submit(self, inputs: Sequence[NDArray[np.int64]]) -> Future[NDArray[np.float32]]:
        """`logits` later: the device goes from one batch to the next without waiting for the caller."""
        return self._threads.submit(self.logits, *inputs)

    def close(self) -> None:
        """Do not run what was submitted and has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One padded batch, each input `[batch, length]`, to `[batch, labels]`. Raises DeviceError."""
        values = (input_ids, attention_mask, token_type_ids)
        try:
            if self._bound is not None:
                return self._bound.run(values)
            result: NDArray[np.float32]
            (result,) = self._session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))
        except Exception as error:  # ONNX Runtime's errors have no common class
            shape = "{} x {} tokens".format(*input_ids.shape)
            raise DeviceError(
                f"ONNX Runtime failed on a batch of {shape} ({self.description}): {_first_line(error)}"
            ) from error
        return result


def _start(model: Path, device: str, index: int) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        _preload_cuda(ort)
        providers = [("CUDAExecutionProvider", {"device_id": str(index)} | _CUDA), *providers]
    try:
        session = ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        if device == "cuda":
            raise _no_cuda(_first_line(error)) from error
        raise InputError(f"{model}: ONNX Runtime cannot load it: {_first_line(error)}", do="export it again") from error
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise _no_cuda("ONNX Runtime fell back to the CPU when CUDA did not start")
    session.disable_fallback()  # and it would do so again after a failed run
    return session


def _check_interface(session: onnxruntime.InferenceSession, model: Path) -> int:
    """The number of labels of a graph that takes and gives what ours do."""
    expected = dict.fromkeys(INPUTS, ("tensor(int64)", 2)) | {OUTPUT: ("tensor(float)", 2)}
    arguments = [*session.get_inputs(), *session.get_outputs()]
    found = {argument.name: (argument.type, len(argument.shape)) for argument in arguments}
    if found != expected:
        raise InputError(
            f"{model}: other inputs or outputs than a bundle's graph",
            found=", ".join(f"{name} {kind} of {axes} axes" for name, (kind, axes) in found.items()),
            expected=f"{', '.join(INPUTS)} int64 and {OUTPUT} float32, of 2 axes",
        )
    labels = session.get_outputs()[0].shape[1]
    if not isinstance(labels, int):
        raise InputError(f"{model}: output {OUTPUT}", found=f"a second axis {labels!r}", expected="a number of labels")
    return labels


# ------------------------------------------------------------------------------------------------------ which device


def choose_device(asked: str) -> str:
    """`cpu`, `cuda` or `cuda:1`. `auto` is `cuda` where there is a GPU.

    Raises InputError for `cuda` without (such) a GPU, and where one is meant to be used but CUDA is not usable.
    """
    kind, _, number = asked.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise InputError("--device", found=repr(asked), expected=" or ".join(DEVICES))
    if kind == "cpu":
        return "cpu"
    gpus = find_gpus()
    if not gpus.count:
        if kind == "cuda":
            raise InputError(f"--device {asked}", found="no NVIDIA GPU that this process may use", do=_ON_THE_CPU[3:])
        return "cpu"
    problem = gpus.problem or _provider_problem()
    if problem:
        raise _no_cuda(problem)
    if number and int(number) >= gpus.count:
        raise InputError(f"GPU {number}", found=f"{gpus.count} here", expected=f"0 to {gpus.count - 1}")
    return asked if number else "cuda"


def choose_devices(asked: str, gpus: str | None = None, workers: int = 1) -> list[str]:
    """What each worker runs on: `cpu`, `workers` times, or `cuda:0`, … for all GPUs or those that `gpus` lists ("0,1").

    Raises InputError as `choose_device` does, and if `gpus` or `workers` do not go with the device.
    """
    if workers < 1:
        raise InputError("--workers", found=str(workers), expected="1 or more")
    device = choose_device(asked)
    if device == "cpu":
        if gpus is not None:
            raise InputError("--devices", found=f"{gpus}, and the CPU as the device", expected="GPUs to choose from")
        return ["cpu"] * workers
    if workers > 1:
        raise InputError("--workers", found=f"{workers}, and GPUs", expected="one for each GPU: choose with --devices")
    if gpus is None:
        return [f"cuda:{number}" for number in range(find_gpus().count)] if device == "cuda" else [device]
    numbers = [number.strip() for number in gpus.split(",")]
    if device != "cuda" or len(set(numbers)) < len(numbers) or not all(map(str.isdecimal, numbers)):
        raise InputError("--devices", found=f"{gpus} with --device {asked}", expected="numbers of GPUs, such as 0,1")
    return [choose_device(f"cuda:{int(number)}") for number in numbers]


def _no_cuda(cause: str) -> InputError:
    return InputError("a GPU is here but ONNX Runtime cannot use it", found=cause, do=_ON_THE_CPU)


@dataclass(frozen=True)
class Gpus:
    count: int  # NVIDIA GPUs that this process may use, by CUDA_VISIBLE_DEVICES too
    problem: str | None = None  # what is wrong with the driver, and its mend
    driver: int = 0  # newest CUDA major version that the driver runs; 0: not known


def find_gpus() -> Gpus:
    """What the CUDA driver says; where it says nothing, the device files that its kernel module makes."""
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


# ------------------------------------------------------------------------------------- what stands in CUDA's way


def _provider_problem() -> str | None:
    """Why the installed ONNX Runtime cannot use a GPU, with the mend; None if nothing speaks against it."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)}
        if len(installed) == 2:
            return (
                "the packages onnxruntime and onnxruntime-gpu are both installed, and the first hides CUDA; "
                "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
            )
        return (
            f"the installed {' '.join(installed) or 'ONNX Runtime'} {ort.__version__} was built without CUDA; "
            "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
        )
    needed = int((getattr(ort, "cuda_version", "") or "0").split(".")[0])
    driver = find_gpus().driver
    if 0 < driver < needed:
        return (
            f"the NVIDIA driver runs CUDA {driver} at most, onnxruntime-gpu {ort.__version__} needs CUDA {needed}; "
            "update the driver, or install an onnxruntime-gpu built for the older CUDA"
        )
    _preload_cuda(ort)
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        # It needs a symbol of this one, which ONNX Runtime loads first as well.
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"a library is missing: {error}; pip install 'bertnli[gpu]'"
    return None


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
        return True
    except metadata.PackageNotFoundError:
        return False


def _preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from the NVIDIA packages that pip installed, if they are there."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; we say it ourselves
            ort.preload_dlls()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
