"""Ask many hosts at once: each runs a probe (probe.py) and answers over one ssh connection, until all is asked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bertnli.common.errors import InputError
from bertnli.common.installed import __version__
from bertnli_launch import shell
from bertnli_launch.probe import MARK

_TIMEOUT = 120.0  # seconds for one answer; fingerprints of large files on slow storage take longest
_AT_ONCE = 64

_T = TypeVar("_T")


class Unreachable(Exception):
    """A host does not answer. The message says why, and what to do."""


class RemoteHost:
    """The probe on one host. Raises InputError if ssh is not installed here."""

    def __init__(self, host: str, environment: Mapping[str, str]):
        self.host = host
        self._unread = b""
        self._errors = os.fdopen(os.memfd_create("ssh's errors"), "w+b")
        # PYTHONSAFEPATH: do not import from the folder in which the session starts
        command = shell.over_ssh(
            host, [sys.executable, "-m", "bertnli_launch.probe"], {**environment, "PYTHONSAFEPATH": "1"}
        )
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except FileNotFoundError:
            raise InputError("ssh is not installed here", do="apt-get install openssh-client") from None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The probe's answer. Raises Unreachable if none comes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + _TIMEOUT
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                if line.startswith(MARK.encode()):
                    return dict(json.loads(line[len(MARK) :]))
            elif not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Unreachable(f"it gave no answer for {_TIMEOUT:.0f} s; check whether it or its storage hangs")
            else:
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    raise Unreachable(self._why_it_ended())
                self._unread += more

    def clock_offset(self) -> float:
        """Seconds by which the host's clock is ahead of this one's, from the fastest of three answers."""
        measured = []
        for _ in range(3):
            sent = time.time()
            there = self.ask("clock")["time"]
            received = time.time()
            measured.append((received - sent, there - (sent + received) / 2))
        return min(measured)[1]

    def close(self) -> None:
        """End the probe, and with it all that it has on the host."""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.communicate(timeout=5)  # closes its input
        self._process.kill()
        self._process.wait()

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {code}"
        if code in (126, 127):
            return f"{sys.executable} cannot be run there ({last}); all hosts need the same Python at the same path"
        if code != 255:
            install = f"ssh {self.host} {sys.executable} -m pip install 'bertnli[train]=={__version__}'"
            return f"bertnli does not run there ({last}); install the same version: {install}"
        if "Permission denied" in last:
            return f"ssh asks for a password ({last}); install your key: ssh-copy-id {self.host}"
        if "verification failed" in last:
            return f"ssh does not know its host key ({last}); check and accept it: ssh {self.host} true"
        return f"ssh does not reach it ({last}); make this work: ssh {self.host} true"


class RemoteHosts:
    """The probes on several hosts. `problems`: pairs of a host and what is wrong with it.

    A host that gives no answer becomes a problem, and is not asked again.
    """

    def __init__(self, hosts: Iterable[str], environment: Mapping[str, str]):
        self.problems: list[tuple[str, str]] = []
        self._remotes = {host: RemoteHost(host, environment) for host in hosts}

    def __enter__(self) -> RemoteHosts:
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(RemoteHost.close, self._remotes.values()))

    def add_problem(self, host: str, problem: str) -> None:
        self.problems.append((host, problem))

    def ask(self, do: str, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Send each host its own request; the answers of the hosts that gave one, in the order of the requests."""
        return self.map(lambda remote: remote.ask(do, **requests[remote.host]), requests)

    def map(self, function: Callable[[RemoteHost], _T], hosts: Iterable[str]) -> dict[str, _T]:
        """Call `function` for each of `hosts` at once; the results of those that answer."""

        def one(host: str) -> _T | Unreachable:
            try:
                return function(self._remotes[host])
            except Unreachable as error:
                return error

        asked = [host for host in hosts if host in self._remotes]
        results: dict[str, _T] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for host, result in zip(asked, pool.map(one, asked), strict=True):
                if isinstance(result, Unreachable):
                    self.add_problem(host, str(result))
                    self._remotes.pop(host).close()
                else:
                    results[host] = result
        return results
