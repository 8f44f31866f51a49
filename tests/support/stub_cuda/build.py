"""Stub CUDA libraries: ONNX Runtime's real CUDA provider runs over them on a machine without a GPU.

    python -m tests.support.stub_cuda.build OUT       # needs gcc and nm; a few seconds

It shows where nodes are placed, what is copied and bound, which process takes which device and how all of it ends. It
cannot show numbers: kernels do nothing, so all logits are zero. cudart.c says what its variables do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# What must give more than "0, done".
BLAS = """
#include <string.h>
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cublasLtMatmulAlgoGetHeuristic(
    void *h, void *d, void *A, void *B, void *C, void *D, void *p, int n, void *results, int *found) {
  memset(results, 0, 96);
  *found = 1;
  return 0;
}
"""
DRIVER = """
int cudaGetDeviceCount(int *n);
int cuInit(unsigned flags) { int n; return cudaGetDeviceCount(&n); }
int cuDeviceGetCount(int *n) { cudaGetDeviceCount(n); return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
"""


def why_not() -> str | None:
    """Why it cannot be built here; None if it can."""
    missing = [tool for tool in ("gcc", "nm", "readelf") if shutil.which(tool) is None]
    if missing:
        return f"the stub CUDA needs {', '.join(missing)}"
    return None if provider() else "the installed ONNX Runtime has no CUDA provider"


def provider() -> Path | None:
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    return path if path.exists() else None


def build(out: Path) -> None:
    """Write one shared library into `out` for each CUDA library that the provider is linked to, and the driver's.

    A library has a function for each symbol that the provider takes from it: those of cudart.c; for the others one that
    does nothing, but gives something to point at where its name says that it creates something.
    """
    library = provider()
    linked = re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv)[\w.]*)\]", _run("readelf", "--dynamic", "--wide", library))
    symbols: dict[str, set[str]] = {name: set() for name in linked}
    driver: set[str] = set()
    for line in _run("nm", "--dynamic", "--undefined-only", library).splitlines():
        symbol, _, version = line.split()[-1].partition("@")
        if version in symbols:  # CUDA's libraries have their own name as the version of their symbols
            symbols[version].add(symbol)
        elif re.match("cu[A-Z]", symbol):  # the driver's
            driver.add(symbol)
        elif symbol.startswith("curand"):
            symbols.setdefault("libcurand.so.10", set()).add(symbol)
    runtime = next(name for name in linked if name.startswith("libcudart."))
    out.mkdir(parents=True, exist_ok=True)
    _link(runtime, _functions(symbols.pop(runtime)), out, [str(HERE / "cudart.c")])
    for name, wanted in symbols.items():
        _link(name, _functions(wanted), out, [])
    _link("libcuda.so.1", DRIVER + _functions(driver), out, [str(out / runtime)])


def environment(built: Path, *, devices: int = 1, sm: int = 90, **more: str) -> dict[str, str]:
    """Variables for a process that is to run over the stubs in `built`, and for all that it starts."""
    names = ":".join(sorted(path.name for path in built.iterdir() if re.search(r"\.so\.\d+$", path.name)))
    paths = os.pathsep.join(filter(None, [str(built), os.environ.get("LD_LIBRARY_PATH")]))
    shown = ",".join(map(str, range(devices)))
    return {
        "LD_LIBRARY_PATH": paths,
        "LD_PRELOAD": names,  # before a real one that another package may bring
        "STUB_CUDA_DEVICES": str(devices),
        "STUB_CUDA_SM": str(sm),
        "CUDA_VISIBLE_DEVICES": shown,
        **more,
    }


def _functions(symbols: set[str]) -> str:
    written = dict.fromkeys(re.findall(r"^int (\w+)\(", BLAS, re.MULTILINE), BLAS)
    lines = ["#include <stdlib.h>", *{written[symbol] for symbol in symbols & written.keys()}]
    for symbol in sorted(symbols - written.keys()):
        takes, does = ("void **p", "*p = calloc(1, 4096); ") if "Create" in symbol else ("void", "")
        lines.append(f"__attribute__((weak)) int {symbol}({takes}) {{ {does}return 0; }}")
    return "\n".join(lines) + "\n"


def _link(library: str, text: str, out: Path, more: list[str]) -> None:
    source, versions = out / f"{library}.c", out / f"{library}.map"
    source.write_text(text)
    versions.write_text(f"{library} {{ global: *; }};\n")  # a program asks for the version that it was linked to
    flags = ["-shared", "-fPIC", "-O1", "-w", "-pthread", f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
    _run("gcc", *flags, "-Wl,-rpath,$ORIGIN", "-o", str(out / library), str(source), *more)


def _run(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    build(Path(sys.argv[1]))
