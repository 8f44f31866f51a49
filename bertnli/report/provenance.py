"""Records how a report's figures were made: the command, the time, the machine and the library versions."""

from __future__ import annotations

import datetime
import platform
import re
import shlex
import sys
from pathlib import Path

from bertnli.common.cores import usable_cores
from bertnli.common.installed import installed

_LIBRARIES = (
    "bertnli",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pyarrow",
)


def provenance() -> dict[str, str]:
    """The command, time, machine and library versions of this process. No library is imported for this."""
    facts = {
        "command": shlex.join(sys.argv),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": platform.platform(),
        "processor": f"{_processor()}, {usable_cores()} cores for this process",
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["GPU"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return facts | {"python": platform.python_version()} | installed(_LIBRARIES)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        lines = ""
    found = re.search(r"^model name\s*:\s*(.+)$", lines, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
