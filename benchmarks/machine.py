"""The machine, versions and commit that a figure was measured with."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bertnli.common.installed import installed

_CPUINFO = Path("/proc/cpuinfo")
_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = (
    *("torch", "deepspeed", "transformers", "accelerate", "sentence-transformers", "tokenizers", "numpy"),
    *("onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"),
)


def describe() -> dict[str, Any]:
    """Date, command, commit, machine and library versions, for the head of a result."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *_measuring(sys.argv[1:])]),
        **commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **installed(_LIBRARIES)},
    }


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, the memory, the system, and the GPUs if there are any."""
    found: dict[str, Any] = {
        "cpu": _processor(),
        "vnni": has_vnni(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }
    gpus = _gpus()
    return found | ({"gpus": gpus} if gpus else {})


def has_vnni() -> bool:
    """Whether the processor sums products of 8 bits in 32, by Linux's list of what it can."""
    return not {"avx_vnni", "avx512_vnni"}.isdisjoint(_cpuinfo().get("flags", "").split())


def commit() -> dict[str, Any]:
    """The checkout's commit, and whether files other than results differ from it; None if git does not know."""
    head = _output("git", "-C", str(_ROOT), "rev-parse", "HEAD")
    if not head:
        return {"commit": None, "dirty": None}
    changed = _output("git", "-C", str(_ROOT), "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"commit": head, "dirty": bool(changed)}


def _processor() -> str:
    found = _cpuinfo()
    if not found:
        return platform.processor() or "unknown"
    # Virtual machines often give the maker's name only; family and model identify the generation.
    return f"{found.get('model name', 'unknown')} (family {found.get('cpu family')}, model {found.get('model')})"


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty on other systems."""
    try:
        first, *_ = _CPUINFO.read_text(errors="replace").split("\n\n")
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _gpus() -> list[str]:
    return _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader").splitlines()


def _measuring(arguments: Sequence[str]) -> list[str]:
    """Those that say what is measured, without folders of this machine."""
    folders = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    folders.add_argument("--results")
    folders.add_argument("--from")
    return folders.parse_known_args(arguments)[1]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
