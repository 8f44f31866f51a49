"""What a training process keeps from step to step does not grow with the steps."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT, environment

STEPS_OF_NEW_LENGTHS = """
import ctypes

import torch

from bertnli.train.allocator import keep_freed_memory

keep_freed_memory()

class Mallinfo(ctypes.Structure):  # mallinfo2(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
layer = torch.nn.Linear(64, 256)
for tokens in range(100, 400):
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.ones(tokens, 64)).float().sum().backward()
    if tokens == 200:
        before = libc.mallinfo2().uordblks
print(libc.mallinfo2().uordblks - before)
"""


def test_no_kernel_is_kept_for_every_number_of_tokens() -> None:
    """oneDNN, and torch above it, each keep 1024 of them by themselves: 109 MB here, 0.4 GB of a layer of MiniLM's.

    How much is kept of the few that may be kept depends on the processor: nothing on AMD's, 3 MB with Intel's AMX.
    """
    command = [sys.executable, "-c", STEPS_OF_NEW_LENGTHS]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**23, done.stdout
