"""Python environments for peers whose libraries conflict with ours: optimum-onnx wants an older transformers.

An environment has the packages that such a peer pins, and after them sees all packages of this one: torch, ONNX Runtime
and numpy are the same for all peers, and are not downloaded again. Each is made at its first use and kept in bertnli's
cache.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peer import Unavailable
from benchmarks.work import kept
from bertnli.fetch.cache import lock

# Complete lists, installed without dependencies: what they lack comes from this environment.
PINNED = {
    "optimum-onnx": (
        *("optimum-onnx==0.1.0", "optimum==2.1.0", "sentence-transformers==5.7.0"),
        *("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"),
    ),
    "openvino": (
        *("openvino==2026.4.1", "openvino-telemetry==2025.2.0", "openvino-tokenizers==2026.4.1.0"),
        *("optimum-intel==2.2.0", "optimum==2.3.0", "sentence-transformers==6.2.0"),
        *("transformers==5.5.4", "tokenizers==0.22.2", "huggingface_hub==1.21.0", "httpx==0.28.1", "httpcore==1.0.9"),
        *("nncf==3.4.0", "ninja==1.13.2", "pydot==4.0.1", "pyparsing==3.3.3", "tabulate==0.10.0"),
    ),
}
_DONE = "done"


def python(name: str) -> str:
    """The interpreter of the environment `name`, which is made if it is missing. Raises Unavailable."""
    behind = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    key = hashlib.sha256("\n".join((sys.version, *behind, *PINNED[name])).encode()).hexdigest()[:12]
    path = kept() / "environments" / f"{name}-{key}"
    with lock(f"benchmarks-{path.name}"):
        if not (path / _DONE).exists():
            shutil.rmtree(path, ignore_errors=True)
            _make(path, PINNED[name], behind)
            (path / _DONE).touch()
    return str(path / "bin" / "python")


def _make(path: Path, pinned: tuple[str, ...], behind: list[str]) -> None:
    venv.create(path)
    interpreter = path / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(packages) / "behind.pth").write_text("".join(f"{line}\n" for line in behind))
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "--no-deps", *pinned]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(f"{pinned[0]} cannot be installed: {(errors or [done.stderr[-200:]])[0]}")
