"""Too little memory is one message, whatever a library calls it."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest

from bertnli.common import memory
from bertnli.common.errors import InputError, RunError
from tests.conftest import environment


def raised_from(cause: BaseException) -> BaseException:
    try:
        try:
            raise cause
        except type(cause):
            raise InputError("weights.safetensors: damaged") from None  # what some code makes of any error
    except InputError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("can't start new thread"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        SystemError("error return without exception set"),
        raised_from(MemoryError()),
    ],
)
def test_its_names(error):
    said = str(memory.shortage(error))
    assert said.startswith("too little memory; found ") and "micro_batch_tokens" in said and "damaged" not in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad_alloc"),
        OSError(errno.ENOSPC, "No space left on device"),
        ImportError("x.so: failed to map segment from shared object: Operation not permitted"),  # a noexec mount
        RuntimeError("size mismatch"),
        raised_from(KeyError("a")),
    ],
)
def test_other_errors_are_others(error):
    assert memory.shortage(error) is None


def test_a_limit_is_told_before_anything_is_loaded():
    memory.require(1 << 30)  # without a limit nothing is refused
    limited = "import resource; resource.setrlimit(resource.RLIMIT_AS, (150 << 20,) * 2); from bertnli import cli; "
    program = limited + "import sys; sys.argv[1:] = ['score', 'bundle', 'a.tsv', 'b.tsv']; cli.main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert (done.returncode, len(done.stderr.splitlines())) == (RunError.exit_code, 1), done.stderr
    assert done.stderr.startswith("bertnli: too little memory; found Cannot allocate memory, with a limit of 150 MiB (")
