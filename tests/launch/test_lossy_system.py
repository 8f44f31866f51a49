"""A link that is late and loses frames (tests/support/lossy.py): it does what it says, and a job finishes over it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import command_line
from tests.support.clusterruns import SETTINGS, bertnli, clean, same, sets
from tests.support.hosts import Host, hostfile, why_not
from tests.support.lossy import TUN
from tests.support.runs import weights

_WHY_NOT = why_not() or (None if TUN.exists() else f"a link that loses frames needs {TUN}")
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_WHY_NOT), reason=str(_WHY_NOT)),
]

ECHO = """
import select, socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
echo.bind(("", 9999))
print("ready", flush=True)
while sys.stdin not in select.select([echo, sys.stdin], [], [])[0]:
    echo.sendto(*echo.recvfrom(100))
"""
# Sends datagrams with the time in them, and prints the seconds that each took which came back.
PING = """
import json, socket, struct, sys, threading, time
address, count = sys.argv[1], int(sys.argv[2])
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ping.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
ping.settimeout(3)
ping.connect((address, 9999))
def send():
    for _ in range(count):
        ping.send(struct.pack("d", time.monotonic()))
        time.sleep(0.001)
threading.Thread(target=send).start()
trips = []
try:
    while len(trips) < count:
        sent = struct.unpack("d", ping.recv(100))[0]
        trips.append(time.monotonic() - sent)
except TimeoutError:
    pass
print(json.dumps(trips))
"""


@pytest.fixture
def echo(two: dict[str, Host]) -> Iterator[None]:
    """Host b sends back what it is sent."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = two["b"].start_command(sys.executable, "-c", ECHO, text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    yield
    process.communicate()


def trips(hosts: dict[str, Host], count: int) -> list[float]:
    """Seconds of each round trip from a to b that was one, of `count`."""
    done = hosts["a"].run(sys.executable, "-c", PING, hosts["b"].address, count)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def left(host: Host) -> tuple[set[str], list[list[str]]]:
    """Devices of the bridge's namespace; processes of ours that forward."""
    links = subprocess.run(["ip", "-n", host.bridge, "-json", "link"], capture_output=True, check=True).stdout
    lines = [command_line(child) for child in psutil.Process().children(recursive=True)]
    return {link["ifname"] for link in json.loads(links)}, [line for line in lines if "near2" in line]


def test_frames_are_late_each_way_and_lost_as_drawn(two: dict[str, Host], echo: None) -> None:
    before = left(two["b"])
    with two["b"].impair(delay=0.02, loss=0.01, seed=5) as traffic:
        assert "near2" in left(two["b"])[0]
        found = trips(two, 2000)
    assert 0.04 <= min(found) < 0.06  # the fastest; no frame is early
    draw = random.Random(5)
    assert traffic.lost == sum(draw.random() < 0.01 for _ in range(traffic.seen))
    assert 0.007 < traffic.lost / traffic.seen < 0.013
    # a datagram each way; what else passed is the system's own (ARP), and may be lost as well
    assert 0 <= traffic.lost - (2000 - len(found)) <= 5
    assert left(two["b"]) == before
    assert min(trips(two, 100)) < 0.02


def test_a_block_that_fails_leaves_nothing(two: dict[str, Host], echo: None) -> None:
    before = left(two["b"])
    with pytest.raises(ZeroDivisionError), two["b"].impair(loss=1.0):
        assert trips(two, 10) == []
        raise ZeroDivisionError
    assert left(two["b"]) == before
    assert len(trips(two, 100)) == 100


def test_a_job_finishes_as_on_a_good_link(two: dict[str, Host], work: Path, tmp_path: Path, on_one_host: Any) -> None:
    launch = ["launch", "run me.yaml", "--hostfile", hostfile(tmp_path / "hosts", a=1, b=1)]
    with two["b"].impair(delay=0.02, loss=0.01, seed=5) as traffic:
        done = bertnli(two["a"], work, *launch, *sets("output=runs/lossy", *SETTINGS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(weights(work / "runs" / "lossy"), on_one_host)
    assert traffic.lost > 20
    assert clean(two, work)
