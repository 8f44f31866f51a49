"""The program that runs on each host, over ssh: `python -m bertnli_launch.probe`. Requests and answers are JSON lines.

Before a job starts it answers the questions of preflight.py; later it signals the processes that supervisor.py names.
It does not import torch or deepspeed, leaves nothing on the host, and exits when its input ends, so also when the ssh
connection breaks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from bertnli.common import heartbeat
from bertnli.common.cores import usable_cores
from bertnli.common.gpus import find_gpus
from bertnli.common.installed import __version__, installed
from bertnli.common.installed import packages as our_packages
from bertnli.common.network import addresses, chosen_interface, source_address
from bertnli.watch import key as keys
from bertnli.watch.rank_env import JOB

MARK = "bertnli-probe: "  # begins every answer; login scripts also write to standard output

_BLOCK, _BLOCKS = 2**20, 64
_TIMEOUT = 5.0  # seconds to connect, to see a file of another host, or for processes to die


# This host alone


def facts(paths: dict[str, str] | None = None, output: str | None = None) -> dict[str, Any]:
    """Versions, GPUs, cores, free memory and disk space in bytes, and a fingerprint of each of `paths`, by its label.

    `folder` in the answer is `output`, or the nearest folder above it that exists.
    """
    import psutil

    gpus = find_gpus()
    folder = existing_parent(Path(output or "."))
    packages = installed(("torch", "deepspeed"))
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "bertnli": __version__,
        "source": source_digest(),
        "torch": packages.get("torch"),
        "deepspeed": packages.get("deepspeed"),
        "torch_cuda": torch_cuda(),
        "gpus": gpus.count,
        "driver_problem": gpus.problem if gpus.count else None,
        "cores": usable_cores(),
        "memory": psutil.virtual_memory().available,
        "folder": str(folder),
        "disk": shutil.disk_usage(folder).free,
        "paths": {label: fingerprint(Path(path)) for label, path in (paths or {}).items()},
        # the address at which this host was reached
        "address": os.environ.get("SSH_CONNECTION", "127.0.0.1 0 127.0.0.1 0").split()[2],
    }


def source_digest() -> str:
    """A digest of the installed code: the same version number can mean different code (a checkout, for example)."""
    hashed = hashlib.sha256()
    for package in our_packages():
        for path in sorted(package.rglob("*.py")):
            hashed.update(f"{path.relative_to(package.parent)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:8]


def torch_cuda() -> str | None:
    """The CUDA version for which the installed torch was built, read from its files; None for a build without CUDA."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def fingerprint(path: Path) -> dict[str, str]:
    """`{"digest": …}` of a file, or of all files of a folder; or `{"problem": …}` if they cannot be read."""
    try:
        if not path.is_dir():
            return {"digest": _digest([(path.name, path)])}
        return {
            "digest": _digest((str(file.relative_to(path)), file) for file in sorted(path.rglob("*")) if file.is_file())
        }
    except OSError as error:
        return {"problem": error.strerror or str(error)}


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    """A digest of names, sizes and contents; of a file over 64 MiB, only 64 blocks of 1 MiB spread evenly over it."""
    hashed = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            hashed.update(f"{name}\0{size}\0".encode())
            blocks = min(_BLOCKS, -(-size // _BLOCK))
            for number in range(blocks):
                file.seek(number * (size - _BLOCK) // (blocks - 1) if size > _BLOCK * _BLOCKS else number * _BLOCK)
                hashed.update(file.read(_BLOCK))
    return hashed.hexdigest()


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


# Together with other hosts


def write(path: str, content: str) -> dict[str, Any]:
    """Write a file that the other hosts look for with `read`."""
    try:
        Path(path).write_text(content)
        return {}
    except OSError as error:
        return {"problem": error.strerror or str(error)}


def read(path: str, content: str) -> dict[str, Any]:
    """Check that another host's file is here, in a writable folder. Wait a few seconds: shared storage may be late."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            if Path(path).read_text() == content:
                writable = os.access(Path(path).parent, os.W_OK)
                return {} if writable else {"problem": "its folder cannot be written"}
            problem = "the file has other content"
        except OSError as error:
            problem = error.strerror or str(error)
        if time.monotonic() > deadline:
            return {"problem": problem}
        time.sleep(0.2)


def write_key(path: str, secret: str) -> dict[str, Any]:
    """Write a job's key, for this user alone. It stays for the ranks."""
    try:
        keys.write_key(Path(path), keys.Key(bytes.fromhex(secret)))
        return {}
    except OSError as error:
        return {"problem": error.strerror or str(error)}


def remove(path: str) -> dict[str, Any]:
    Path(path).unlink(missing_ok=True)
    return {}


def source(address: str) -> dict[str, Any]:
    """The source address of this host's packets to `address`."""
    return {"address": source_address(address)}


def listen(variable: str, master: str, ports: Sequence[int], token: str) -> dict[str, Any]:
    """Serve `token` on a free port of the interface that the ranks will use here; on the master also on `ports`.

    Returns `interface`, and `to`: an address and port. Or returns `problem`; if a port is in use, also that port as
    `taken` and another one as `free`. variable: network.GLOO or network.NCCL, read in this process's environment.
    """
    own = source_address(master)
    interface = chosen_interface(variable, os.environ, master)
    if own is None:
        return {"problem": f"there is no route to the master's address {master}"}
    if interface is None:
        named, there = os.environ.get(variable), ", ".join(addresses())
        return {"problem": f"{variable} is {named!r}, but the interfaces with an address are {there}"}
    if ports and own not in {str(entry[4][0]) for entry in socket.getaddrinfo(master, None)}:
        return {"problem": f"{master} is not an address of this host"}
    here = addresses()[interface]
    address = own if own in here else next((one for one in here if (":" in one) == (":" in own)), here[0])
    for port in ports:
        try:
            _serve_token(_open(port), token)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return {"problem": f"port {port}: {error.strerror}"}
            return {"problem": f"port {port} is taken{_holder(port)}", "taken": port, "free": _free_port(port)}
    try:
        listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        return {"problem": f"a port on {address}: {error.strerror}"}
    _serve_token(listening, token)
    return {"interface": interface, "to": [address, listening.getsockname()[1]]}


def connect(interface_address: str, to: Sequence[tuple[str, int]], token: str) -> dict[str, Any]:
    """Connect to each of `to` from the address `interface_address`. `problems`: for each, None or why it failed."""

    def one(target: tuple[str, int]) -> str | None:
        address, port = target
        try:
            with socket.create_connection((address, port), _TIMEOUT, source_address=(interface_address, 0)) as link:
                return None if link.recv(100) == token.encode() else "another program answers there"
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(max(1, min(64, len(to)))) as pool:
        return {"problems": list(pool.map(one, [(address, port) for address, port in to]))}


def clock() -> dict[str, Any]:
    return {"time": time.time()}


def signal_job(job: str, number: int, rank: int | None = None) -> dict[str, Any]:
    """Send a signal to this host's processes of a job, or only to the watcher of `rank`.

    A process belongs to the job that its environment names; processes are never chosen by their command line. After
    SIGKILL this waits a few seconds until they are gone. `left`: how many got the signal; after SIGKILL, are still
    alive.
    """
    import psutil

    def of_the_job() -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                variables = process.environ()
                if variables.get(JOB) != job or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if rank is None or (variables.get("RANK") == str(rank) and heartbeat.VARIABLE not in variables):
                    yield process

    deadline = time.monotonic() + _TIMEOUT
    while found := list(of_the_job()):
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(number)
        if number != signal.SIGKILL or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return {"left": len(found)}


def _open(port: int) -> socket.socket:
    """Listen on all addresses of this host, as torch's store and the watchers do."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _serve_token(listening: socket.socket, token: str) -> None:
    """Send the token to every program that connects, as long as this process lives."""

    def serve() -> None:
        while True:
            try:
                visitor, _ = listening.accept()
                with visitor:
                    visitor.sendall(token.encode())
            except OSError:  # of that visitor, or too many at once
                time.sleep(0.1)

    threading.Thread(target=serve, daemon=True).start()


def _holder(port: int) -> str:
    """` by NAME (process PID)`; empty if the process belongs to another user."""
    import psutil

    try:
        for entry in psutil.net_connections("tcp"):
            if entry.status == psutil.CONN_LISTEN and getattr(entry.laddr, "port", None) == port and entry.pid:
                return f" by {psutil.Process(entry.pid).name()} (process {entry.pid})"
    except psutil.Error:
        pass
    return ""


def _free_port(above: int) -> int | None:
    for port in range(above + 1, min(above + 100, 65536)):
        try:
            _open(port).close()
            return port
        except OSError:
            continue
    return None


_ACTS = (facts, write, read, write_key, remove, source, listen, connect, clock, signal_job)
ACTIONS = {act.__name__: act for act in _ACTS}


def main() -> None:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # slots number all GPUs of a host
    for line in sys.stdin:
        request = json.loads(line)
        answer = ACTIONS[request.pop("do")](**request)
        print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
