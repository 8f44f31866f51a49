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
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertnli.cores import usable_cores
from bertnli.errors import InputError, RunError
from export.bundle import INPUTS, OUTPUT

if TYPE_CHECKING:
    import onnxruntime

DEVICES = ("auto", "cpu", "cuda")
_ON_THE_CPU = "or choose the CPU with --device cpu"


class Session:
    """A graph with its weights, loaded and ready on one device.

    Attributes: `device`, `cpu` or `cuda`; `description`, the same for a person; `outputs`, the number of labels.
    """

    def __init__(self, model: Path, device: str = "auto", threads: int | None = None):
        """`threads`: that compute on a CPU; left out, one for each core that the process may use.

        Raises InputError if the device cannot be used or `model` is not a graph of ours."""
        self.device = choose_device(device)
        threads = threads or usable_cores()
        self.description = f"CPU, {threads} thread{'s' if threads > 1 else ''}" if self.device == "cpu" else "CUDA GPU"
        self._session = _start(model, self.device, threads)
        self.outputs = _check_interface(self._session, model)

    def logits(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One padded batch, each input `[batch, length]`, to `[batch, labels]`. Raises RunError."""
        values = (input_ids, attention_mask, token_type_ids)
        try:
            (result,) = self._session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))
        except Exception as error:  # ONNX Runtime's errors have no common class
            shape = "{} x {} tokens".format(*input_ids.shape)
            raise RunError(
                f"ONNX Runtime failed on a batch of {shape} ({self.description}): {_first_line(error)}"
            ) from error
        return result


def _start(model: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    if device == "cuda":
        _preload_cuda(ort)
    try:
        session = ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        if device == "cuda":
            raise _no_cuda(_first_line(error)) from error
        raise InputError(f"{model}: ONNX Runtime cannot load it: {_first_line(error)}", do="export it again") from error
    if session.get_providers()[0] != providers[0]:
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
    """`cpu` or `cuda`. `auto` is `cuda` where there is a GPU.

    Raises InputError for `cuda` without a GPU, and where a GPU is meant to be used but CUDA is not usable.
    """
    if asked not in DEVICES:
        raise InputError("--device", found=repr(asked), expected=" or ".join(DEVICES))
    if asked == "cpu":
        return "cpu"
    gpus = find_gpus()
    if not gpus.count:
        if asked == "cuda":
            raise InputError("--device cuda", found="no NVIDIA GPU that this process may use", do=_ON_THE_CPU[3:])
        return "cpu"
    problem = gpus.problem or _provider_problem()
    if problem:
        raise _no_cuda(problem)
    return "cuda"


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
