"""Hosts on one machine: each is a set of Linux namespaces with its own network card, clock and files.

    with cluster(tmp_path, a={}, b={"clock": "+90s"}) as hosts:
        hosts["a"].run("ssh", "b", "hostname")

Each host is a network, process, mount and host name namespace in which an sshd runs as the first process; a bridge
joins the hosts at 10.77.0.1, 10.77.0.2, …. They share this machine's files, as hosts of a cluster share a file system;
`mounts` makes exceptions. This needs root, iproute2, util-linux, openssh and, for a host's own clock, libfaketime.
At the end of the block all processes of the hosts are killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import SOURCES
from tests.support.lossy import Traffic, forwarding

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
_CLUSTERS = itertools.count()
PACKAGES = "openssh-server pdsh iproute2 faketime"


def why_not() -> str | None:
    """Why hosts cannot be made on this machine; None if they can."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    tools = ("ip", "unshare", "nsenter", "mount", "ssh", "ssh-keygen", "sshd", "pdsh", "faketime")
    missing = [tool for tool in tools if not shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ["PATH"])]
    if missing:
        return f"hosts in namespaces need {', '.join(missing)}: apt-get install {PACKAGES}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"namespaces cannot be made here: {tried.stderr.decode().strip()}"


class Host:
    """One host. `name` is what ssh and the hostfile call it, `address` its own on the bridge."""

    def __init__(
        self,
        name: str,
        number: int,
        folder: Path,
        bridge: str,
        *,
        clock: str | None = None,
        mounts: Mapping[str | Path, str | Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        """clock: an offset as libfaketime takes it (`+90s`). mounts: path -> what this host has there instead.
        environment: variables of this host's ssh sessions (`PATH`)."""
        self.name, self.address = name, f"10.77.0.{number}"
        self.namespace, self.bridge = f"{bridge}-{number}", bridge
        self._number, self._port = number, f"port{number}"
        self.folder = folder / name
        self._cluster = folder
        self._mounts = {str(target): str(source) for target, source in (mounts or {}).items()}
        self.environment = {"PATH": os.environ["PATH"], **(environment or {})}
        if clock is not None:
            self.environment |= {"LD_PRELOAD": FAKETIME, "FAKETIME": clock, "DONT_FAKE_MONOTONIC": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    # Life

    def start(self) -> None:
        """Make the network card, and start sshd in its own namespaces."""
        _ip("netns", "add", self.namespace)
        _ip("-n", self.bridge, "link", "add", self._port, "type", "veth", "peer", "eth0", "netns", self.namespace)
        _ip("-n", self.bridge, "link", "set", self._port, "master", "br0", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for card in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", card, "up")
        binds = ["mount -t tmpfs tmpfs /dev/shm"]  # hosts do not share memory
        binds += [f"mount --bind {shlex.quote(source)} {shlex.quote(to)}" for to, source in self._mounts.items()]
        sshd = (
            f"exec /usr/sbin/sshd -D -E {shlex.quote(str(self.folder / 'sshd.log'))} -f {self.folder / 'sshd_config'}"
        )
        script = " && ".join([f"hostname {self.name}", *binds, sshd])
        namespaces = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "start.log").open("w") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", *namespaces, "sh", "-c", script], stderr=log
            )
        inside = psutil.Process(self._process.pid)
        _wait_until(lambda: [child.name() for child in inside.children()] == ["sshd"], f"sshd on {self.name}")

    def stop(self) -> None:
        """Kill every process of the host at once, as a power cut does."""
        if self._process is not None:
            for first in psutil.Process(self._process.pid).children():
                first.kill()  # the kernel ends the others of its process namespace
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        _ip("netns", "delete", self.namespace)

    # Work

    def start_command(
        self, *command: object, env: Mapping[str, str] | None = None, cwd: str | Path = "/", **options: Any
    ) -> Any:
        """A process on this host, as if started from a terminal there; `subprocess.Popen`'s options."""
        enter = ["nsenter", "--target", str(self._first), "--net", "--mount", "--uts", "--pid", "--"]
        own = {name: value for name, value in self.environment.items() if name != "PATH"}
        path = f"{self._cluster / 'bin'}:{self.environment['PATH']}"
        settings = [f"{name}={value}" for name, value in {**own, **(env or {}), "PATH": path}.items()]
        return subprocess.Popen([*enter, "env", f"--chdir={cwd}", *settings, *map(str, command)], **options)

    def run(
        self, *command: object, env: Mapping[str, str] | None = None, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end; output as text."""
        process = self.start_command(
            *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            said = f"{expired.stdout!r}\n{expired.stderr!r}"
            raise AssertionError(f"{command} ran longer than {timeout} s: {said}") from None
        return subprocess.CompletedProcess([str(word) for word in command], process.returncode, out, err)

    def pids(self, *words: str) -> list[int]:
        """Processes of this host besides its sshd; with `words`, those that have all of them in their command line."""
        inside = Path(f"/proc/{self._first}/ns/pid").readlink()
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                line = psutil.Process(pid).cmdline()
                ours = Path(f"/proc/{pid}/ns/pid").readlink() == inside and line and not line[0].startswith("sshd:")
                if ours and set(words) <= set(line):
                    found.append(pid)
        return found

    # Trouble

    def cut(self) -> None:
        """Take the link down: nothing reaches this host, and no connection is closed."""
        _ip("-n", self.bridge, "link", "set", self._port, "down")

    def reconnect(self) -> None:
        _ip("-n", self.bridge, "link", "set", self._port, "up")

    @contextlib.contextmanager
    def impair(self, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> Iterator[Traffic]:
        """A bad link within the block: frames are `delay` seconds late in each direction, and a fraction `loss` of them
        is dropped, drawn from `seed`. Yields the numbers of frames, which are known after the block.

        A second bridge and tests/support/lossy.py are put between the host's port and the bridge. Needs /dev/net/tun.
        """
        near, far, own = f"near{self._number}", f"far{self._number}", f"br{self._number}"
        inside = ("ip", "netns", "exec", self.bridge)
        with contextlib.ExitStack() as stack:
            traffic = stack.enter_context(forwarding((near, far), delay, loss, seed, inside=inside))
            _ip("-n", self.bridge, "link", "add", own, "type", "bridge")
            stack.callback(_ip, "-n", self.bridge, "link", "delete", own)
            _ip("-n", self.bridge, "link", "set", own, "up")
            _ip("-n", self.bridge, "link", "set", far, "master", "br0", "up")
            _ip("-n", self.bridge, "link", "set", near, "master", own, "up")
            stack.callback(_ip, "-n", self.bridge, "link", "set", self._port, "master", "br0")
            _ip("-n", self.bridge, "link", "set", self._port, "master", own)
            yield traffic

    @property
    def _first(self) -> int:
        """The first process of this host, sshd."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children()[0].pid

    def configure_ssh(self, client_key: Path) -> None:
        """Write this host's key, its sshd's configuration, and the entry by which the others find it."""
        self.folder.mkdir()
        _keygen(self.folder / "key")
        setenv = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        (self.folder / "sshd_config").write_text(
            f"HostKey {self.folder / 'key'}\nAuthorizedKeysFile {client_key}.pub\nStrictModes no\nUsePAM no\n"
            f"PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nMaxStartups 100\nSetEnv {setenv}\n"
        )
        key = " ".join((self.folder / "key.pub").read_text().split()[:2])
        with (self._cluster / "known_hosts").open("a") as file:
            file.write(f"{self.address} {key}\n")
        with (self._cluster / "ssh_config").open("a") as file:
            file.write(
                f"Host {self.name}\n  HostName {self.address}\n  User root\n  IdentityFile {client_key}\n"
                f"  UserKnownHostsFile {self._cluster / 'known_hosts'}\n"
            )


@contextlib.contextmanager
def cluster(folder: Path, **hosts: Mapping[str, Any]) -> Iterator[dict[str, Host]]:
    """Hosts by name, each with its options of `Host`. `folder` is for their keys and settings."""
    folder = folder / "cluster"
    (folder / "bin").mkdir(parents=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    _keygen(folder / "client")
    # ssh looks for its configuration in the home folder of the password file, whatever HOME says. The first value of an
    # option counts: a host that is cut off costs 5 s at each try.
    options = f"-F {folder / 'ssh_config'} -o ConnectTimeout=5"
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    bridge = f"bertnli-{os.getpid()}-{next(_CLUSTERS)}"
    made = {
        name: Host(name, number, folder, bridge, **options)
        for number, (name, options) in enumerate(hosts.items(), start=1)
    }
    with contextlib.ExitStack() as stack:
        _ip("netns", "add", bridge)
        stack.callback(_ip, "netns", "delete", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for host in made.values():
            host.configure_ssh(folder / "client")
            stack.callback(host.remove)
            host.start()
        first = next(iter(made.values()))
        for host in made.values():
            _wait_until(lambda host=host: first.run("ssh", host.name, "true").returncode == 0, f"{host.name} to answer")
        yield made


def hostfile(path: Path, **slots: int) -> Path:
    path.write_text("".join(f"{name} slots={number}\n" for name, number in slots.items()))
    return path


def python(*arguments: object) -> list[str]:
    """The command that runs this interpreter with the repository importable."""
    return ["env", f"PYTHONPATH={SOURCES}", sys.executable, *map(str, arguments)]


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {shlex.join(arguments)}: {done.stderr}"
    return done


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _wait_until(met: Any, what: str, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)
