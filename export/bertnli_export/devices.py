"""Which device a graph runs on: chosen by name, or an error that says what stands in the way.

ONNX Runtime itself falls back to the CPU when CUDA does not start, and only logs it. Here a GPU that is present is
used, or an error names the cause and the fix. `auto` is the CPU only if there is no GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertnli.common.errors import InputError
from bertnli.common.gpus import find_gpus
from bertnli.common.installed import installed

DEVICES = ("auto", "cpu", "cuda")
"""What `--device` takes, beside one of several GPUs as `cuda:1`."""

_ON_THE_CPU = "choose the CPU with --device cpu"


@dataclass(frozen=True)
class Device:
    """A device that was chosen; `str()` gives the text that chooses it again.

    kind: all that precisions, batch sizes and records depend on. index: which of several GPUs, in CUDA's numbering;
    None: the user named none, so it is the first.
    """

    kind: Literal["cpu", "cuda"]
    index: int | None = None

    @property
    def device_id(self) -> int:
        """As CUDA and ONNX Runtime number it."""
        return self.index or 0

    def __str__(self) -> str:
        return self.kind if self.index is None else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def choose_device(asked: str) -> Device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:1`. `auto` is `cuda` if there is a GPU.

    Raises InputError for `cuda` without a GPU of that number, and if a GPU is present but CUDA is not usable.
    """
    kind, _, number = asked.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise InputError("--device", found=repr(asked), expected=" or ".join(DEVICES))
    if kind == "cpu":
        return CPU
    gpus = find_gpus()
    if not gpus.count:
        if kind == "cuda":
            raise InputError(f"--device {asked}", found="no NVIDIA GPU that this process may use", do=_ON_THE_CPU)
        return CPU
    problem = gpus.problem or _provider_problem()
    if problem:
        raise no_cuda(problem)
    if number and int(number) >= gpus.count:
        raise InputError(f"GPU {number}", found=f"{gpus.count} here", expected=f"0 to {gpus.count - 1}")
    return Device("cuda", int(number) if number else None)


def choose_devices(asked: str, gpus: str | None = None, workers: int = 1) -> list[Device]:
    """The device of each worker: the CPU `workers` times, or all GPUs, or those that `gpus` lists ("0,1").

    Raises InputError as `choose_device` does, and if `gpus` or `workers` do not fit the device.
    """
    if workers < 1:
        raise InputError("--workers", found=str(workers), expected="1 or more")
    device = choose_device(asked)
    if device.kind == "cpu":
        if gpus is not None:
            raise InputError("--devices", found=f"{gpus}, and the CPU as the device", expected="GPUs to choose from")
        return [CPU] * workers
    if workers > 1:
        raise InputError("--workers", found=f"{workers}, and GPUs", expected="one for each GPU: choose with --devices")
    if gpus is None:
        return [Device("cuda", number) for number in range(find_gpus().count)] if device.index is None else [device]
    numbers = [number.strip() for number in gpus.split(",")]
    if device.index is not None or len(set(numbers)) < len(numbers) or not all(map(str.isdecimal, numbers)):
        raise InputError("--devices", found=f"{gpus} with --device {asked}", expected="numbers of GPUs, such as 0,1")
    return [choose_device(f"cuda:{int(number)}") for number in numbers]


def no_cuda(cause: str) -> InputError:
    """For a GPU that is present and was asked for, if only by `auto`."""
    return InputError("a GPU is present, but ONNX Runtime cannot use it", found=cause, do=f"or {_ON_THE_CPU}")


def _provider_problem() -> str | None:
    """Why the installed ONNX Runtime cannot use a GPU, and the fix; None if it probably can."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        found = installed(("onnxruntime", "onnxruntime-gpu"))
        if len(found) == 2:
            return (
                "the packages onnxruntime and onnxruntime-gpu are both installed, and the first hides CUDA; "
                "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
            )
        return (
            f"the installed {' '.join(found) or 'ONNX Runtime'} {ort.__version__} was built without CUDA; "
            "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
        )
    needed = int((getattr(ort, "cuda_version", "") or "0").split(".")[0])
    driver = find_gpus().driver
    if 0 < driver < needed:
        return (
            f"the NVIDIA driver runs CUDA {driver} at most, onnxruntime-gpu {ort.__version__} needs CUDA {needed}; "
            "update the driver, or install an onnxruntime-gpu built for the older CUDA"
        )
    preload_cuda(ort)
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        # The CUDA library needs a symbol of the shared one, which ONNX Runtime loads first as well.
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"a library is missing: {error}; pip install 'bertnli[gpu]'"
    return None


def preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from the NVIDIA packages that pip installed, if they are there."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
