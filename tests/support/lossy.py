"""A link that is late and loses frames: the program that `Host.impair` (support/hosts.py) puts before a host's card.

    python tests/support/lossy.py NEAR FAR DELAY LOSS SEED

It makes two TAP devices, NEAR and FAR. What the system sends into one comes out of the other DELAY seconds later. A
fraction LOSS of all frames, in both directions, is dropped, drawn from SEED in the order in which they arrive. A TAP
device has no offloading, so each is one complete frame of at most 1,514 bytes, as on a wire. (netem does the same, but
not every kernel has it, and it does not report which frames it dropped.)

When its standard input ends, it prints how many frames came and how many it dropped, and exits. The devices go with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TUN = Path("/dev/net/tun")
_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_AT_ONCE = 64
"""Frames taken from one side before the other side's turn."""


@dataclass
class Traffic:
    """How many frames came to the link from both sides, and how many it dropped; known when it has ended."""

    seen: int = 0
    lost: int = 0


@contextlib.contextmanager
def forwarding(
    devices: tuple[str, str], delay: float, loss: float, seed: int, *, inside: Sequence[str]
) -> Iterator[Traffic]:
    """Run the program within the block, by the command `inside` (`ip netns exec NAME`). Its devices start down."""
    traffic = Traffic()
    command = [*inside, sys.executable, __file__, *devices, str(delay), str(loss), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "ready\n", f"{command} did not start"
            yield traffic
            traffic.seen, traffic.lost = map(int, program.communicate("", timeout=10)[0].split())
        finally:
            program.kill()


def forward(near: int, far: int, delay: float, loss: float, seed: int) -> Traffic:
    """Pass frames between two open TAP devices until standard input ends."""
    traffic, draw = Traffic(), random.Random(seed)
    other = {near: far, far: near}
    waiting: deque[tuple[float, int, bytes]] = deque()  # when, where to, what; in order, as all wait equally long
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([sys.stdin, near, far], [], [], patience)
        if sys.stdin in ready:
            return traffic
        for source in ready:
            for frame in _frames(source):
                traffic.seen += 1
                if draw.random() < loss:
                    traffic.lost += 1
                else:
                    waiting.append((time.monotonic() + delay, other[source], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, target, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # a device that is not up yet
                os.write(target, frame)


def _frames(device: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            yield os.read(device, 2048)


def _tap(name: str) -> int:
    """Make a TAP device and open it; it exists as long as it is open."""
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return device


if __name__ == "__main__":
    _near, _far, _delay, _loss, _seed = sys.argv[1:]
    _devices = _tap(_near), _tap(_far)
    print("ready", flush=True)
    _traffic = forward(*_devices, float(_delay), float(_loss), int(_seed))
    print(_traffic.seen, _traffic.lost)
