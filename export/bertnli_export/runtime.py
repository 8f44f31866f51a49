"""The oldest ONNX Runtime that may open a bundle's graph."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from bertnli.common.errors import InputError
from bertnli.common.installed import installed

OLDEST = "1.24.4"
"""Older ones let a graph name any file of the host as its weights. pyproject.toml has the same floor."""


def check_runtime(needed: str = OLDEST, where: str = "") -> None:
    """Raise InputError if the installed ONNX Runtime is older than `needed` or `OLDEST`. where: what needs it."""
    import onnxruntime as ort

    needed = max(needed, OLDEST, key=Version)
    try:
        new_enough = Version(ort.__version__) >= Version(needed)
    except InvalidVersion:  # somebody's own build
        return
    if not new_enough:
        package = next(iter(installed(("onnxruntime-gpu", "onnxruntime"))), "onnxruntime")
        raise InputError(
            f"{where or 'scoring'} needs ONNX Runtime {needed} or newer",
            found=ort.__version__,
            do=f"pip install -U '{package}>={needed}'",
        )
