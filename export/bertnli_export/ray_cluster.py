"""The Ray cluster that distributed.py scores on: connecting to it, its nodes, and a watch over its head node."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from typing import Any

from bertnli.common.cores import usable_cores
from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.progress import say
from bertnli.common.safe_path import safe_path
from bertnli.common.signals import SIGNALS
from bertnli_export.devices import CPU, Device

CONNECT_SECONDS = 30
"""So long a cluster may take to answer."""
HEAD_SECONDS = 20
"""So long the head node may be silent. Ray itself gives up after 60, without a message."""

_PROBE = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    sys.exit("found: " + " ".join(str(error).split()))
"""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster at `address`, or to one that is started for the block. Raises InputError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would send usage data to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    start: dict[str, Any] = {}
    if address == "local":
        start = {"num_cpus": usable_cores(), "include_dashboard": False}
    else:
        _probe(address)
    import ray

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        try:
            with _no_working_folder():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **start)
        except Exception as error:  # Ray's errors at the start have no common class
            raise InputError(
                f"--ray {address}: Ray does not start",
                found=ray_reason(error),
                do="start Ray there, or give --ray local",
            ) from error
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray has replaced it by its own
        with _watched_head(address):
            yield
    finally:
        ray.shutdown()


@contextmanager
def _no_working_folder() -> Iterator[None]:
    """In the block, Ray starts workers without the working folder in their path, which it would add."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    os.environ.update(safe_path(os.environ))
    try:
        with chdir("/"):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _probe(address: str) -> None:
    """Connect in another process first: without an answer, `ray.init` may wait for minutes and cannot be stopped."""
    what = f"--ray {address}: no cluster answers"
    do = "make this machine a node of a cluster (ray start), or give --ray local"
    if address.startswith("ray://"):
        raise InputError(f"--ray {address}: Ray Data does not work through Ray's client", do=do)
    host, colon, port = address.rpartition(":")
    try:
        if colon:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        probed = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env=safe_path(os.environ),
            capture_output=True,
            text=True,
            timeout=CONNECT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InputError(what, found=f"no answer in {CONNECT_SECONDS} seconds", do=do) from None
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(what, found=str(error), do=do) from None
    if probed.returncode:
        lines = probed.stderr.strip().splitlines() or [f"exit code {probed.returncode}"]
        raise InputError(what, found=lines[-1].removeprefix("found: ")[:600], do=do)


@contextmanager
def _watched_head(address: str) -> Iterator[None]:
    """In the block, this process exits with a message when the cluster's head node no longer answers.

    A thread exits at once, because neither Ray's calls nor its shutdown return then.
    """
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    ended = threading.Event()

    def watch() -> None:
        last_answer = time.monotonic()
        while not ended.wait(1):
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
                last_answer = time.monotonic()
            except OSError as error:
                if time.monotonic() - last_answer > HEAD_SECONDS:
                    lost = RunError(
                        f"--ray {address}: the cluster's head no longer answers",
                        found=str(error),
                        do="start the cluster and give the same command again, without --restart: what is done is kept",
                    )
                    say(f"bertnli: {lost}")
                    os._exit(lost.exit_code)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def choose_nodes(device: str, address: str) -> tuple[Device, list[dict[str, Any]]]:
    """The kind of device that `device` means on this cluster, and the nodes that have one."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = {kind: [node for node in alive if node["Resources"].get(kind, 0) >= 1] for kind in ("CPU", "GPU")}
    if device == "cuda" or (device == "auto" and nodes["GPU"]):
        kind, chosen = "GPU", Device("cuda")
    else:
        kind, chosen = "CPU", CPU
    if not nodes[kind]:
        raise InputError(
            f"--ray {address}: the cluster has no {kind}", do="add a node that has one, or choose another --device"
        )
    return chosen, nodes[kind]


def cores_each(nodes: Sequence[Mapping[str, Any]], partitions: int) -> int:
    """Cores of a worker: one, or more where partitions are fewer than cores; at most what the smallest node has."""
    cores = [int(node["Resources"]["CPU"]) for node in nodes]
    return max(1, min(sum(cores) // partitions, *cores))


def affinity(node_id: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def name_of(node_id: str) -> str:
    """A node's name for messages."""
    import ray

    for node in ray.nodes():
        if node["NodeID"] == node_id:
            return f"node {node['NodeName']} ({node['NodeManagerHostname']})"
    return f"node {node_id}"


def ray_reason(error: BaseException) -> str:
    """One line on a Ray error: the last of a task's traceback, of other errors the first."""
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        return str(error).strip().splitlines()[-1].strip()[:300]
    return first_line(error)
